# DeepLabV3 with the small network that was found on CIFAR-10, for the 701 road scenes of CamVid: trains on a laptop.
_base_ = ['mmseg::_base_/models/deeplabv3_r50-d8.py', 'mmseg::_base_/default_runtime.py']
custom_imports = dict(imports=['pinas_downstream'], allow_failed_imports=False)

data_root = 'data/camvid/'  # --data-root replaces it
metainfo = dict(
    classes=(
        'sky', 'building', 'pole', 'road', 'pavement', 'tree', 'sign symbol', 'fence', 'car', 'pedestrian', 'bicyclist',
    ),
    palette=[
        [128, 128, 128], [128, 0, 0], [192, 192, 128], [128, 64, 128], [60, 40, 222], [128, 128, 0],
        [192, 128, 128], [64, 64, 128], [64, 0, 128], [64, 64, 0], [0, 128, 192],
    ],
)  # fmt: skip
crop_size = (256, 256)
iterations = 900

norm_cfg = dict(type='BN')
head = dict(channels=64, num_classes=11, norm_cfg=norm_cfg)
model = dict(
    data_preprocessor=dict(
        # Mean and standard deviation that the backbone's weights were trained with.
        mean=[125.307, 122.961, 113.8575],
        std=[62.985, 62.0925, 66.708],
        size=crop_size,
    ),
    pretrained=None,  # the base's names weights of its own backbone
    backbone=dict(
        _delete_=True,
        type='PiNAS',
        choices='mini',
        stem_stride=4,  # as in the large networks; the network's own 2 costs four times the work
        output_stride=8,
        norm_cfg=norm_cfg,
        init_cfg=dict(type='Pretrained', checkpoint='pinas_mini.cifar10'),
    ),
    decode_head=dict(_delete_=True, type='EncodingDeepLabHead', in_channels=512, in_index=3, **head),
    auxiliary_head=dict(_delete_=True, type='EncodingFCNHead', in_channels=256, in_index=2, **head),
)

train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations'),
    dict(type='RandomResize', scale=(480, 360), ratio_range=(0.5, 1.5), keep_ratio=True),
    dict(type='Pad', size=crop_size, pad_val=dict(img=0, seg=255)),
    dict(type='RandomCrop', crop_size=crop_size, cat_max_ratio=0.75),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PhotoMetricDistortion'),
    dict(type='PackSegInputs'),
]
test_pipeline = [dict(type='LoadImageFromFile'), dict(type='LoadAnnotations'), dict(type='PackSegInputs')]
dataset = dict(type='BaseSegDataset', data_root=data_root, metainfo=metainfo, img_suffix='.jpg', seg_map_suffix='.png')
train_dataloader = dict(
    batch_size=8,
    num_workers=0,
    sampler=dict(type='InfiniteSampler', shuffle=True),
    dataset=dict(
        data_prefix=dict(img_path='images/train', seg_map_path='annotations/train'), pipeline=train_pipeline, **dataset
    ),
)
val_dataloader = dict(
    batch_size=1,
    num_workers=0,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        data_prefix=dict(img_path='images/val', seg_map_path='annotations/val'), pipeline=test_pipeline, **dataset
    ),
)
test_dataloader = dict(
    batch_size=1,
    num_workers=0,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        data_prefix=dict(img_path='images/test', seg_map_path='annotations/test'), pipeline=test_pipeline, **dataset
    ),
)
val_evaluator = dict(type='IoUMetric', iou_metrics=['mIoU'])
test_evaluator = val_evaluator
# --tta: the authors' evaluation at three scales, and mirrored.
tta_model = dict(_delete_=True, type='MultiEval', base_size=480, crop_size=256, scales=(0.75, 1.0, 1.25))
tta_pipeline = test_pipeline

train_cfg = dict(type='IterBasedTrainLoop', max_iters=iterations, val_interval=150)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
# AdamW, where the authors use SGD: it ends sooner on so few images.
optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=1e-3, weight_decay=0.05),
    paramwise_cfg=dict(norm_decay_mult=0.0, bias_decay_mult=0.0),
    clip_grad=dict(max_norm=10.0),
)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=50),
    dict(type='PolyLR', power=0.9, eta_min=0.0, begin=0, end=iterations + 1, by_epoch=False),
]
default_hooks = dict(
    timer=dict(type='IterTimerHook'),
    logger=dict(type='LoggerHook', interval=20, log_metric_by_epoch=False),
    param_scheduler=dict(type='ParamSchedulerHook'),
    checkpoint=dict(type='CheckpointHook', by_epoch=False, interval=150, max_keep_ckpts=2, save_best='mIoU'),
    sampler_seed=dict(type='DistSamplerSeedHook'),
    visualization=dict(type='SegVisualizationHook'),
)
