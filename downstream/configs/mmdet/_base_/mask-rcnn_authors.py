# Mask R-CNN on COCO 2017 with the settings of the authors' Detectron2 experiments. Comments: where mmdet's own default
# differs, and why it is not taken. What is not written here is equal in both.
_base_ = [
    'mmdet::_base_/models/mask-rcnn_r50_fpn.py',
    'mmdet::_base_/datasets/coco_instance.py',
    'mmdet::_base_/schedules/schedule_1x.py',
    'mmdet::_base_/default_runtime.py',
]
custom_imports = dict(imports=['pinas_downstream'], allow_failed_imports=False)

data_root = 'data/coco/'  # the base's; --data-root replaces it
max_iters = 90_000

# Trained in the backbone, FPN and heads, where mmdet freezes the BN of the backbone and has none elsewhere. On one
# process it becomes BN by itself.
norm_cfg = dict(type='SyncBN')
model = dict(
    # Nothing is frozen (mmdet: stem and first stage); PiNAS trains everything by default.
    backbone=dict(_delete_=True, type='PiNAS', norm_cfg=norm_cfg),
    neck=dict(norm_cfg=norm_cfg),  # on the lateral convolutions too
    roi_head=dict(
        # mmdet: two linear layers.
        bbox_head=dict(type='Shared4Conv1FCBBoxHead', conv_out_channels=256, norm_cfg=norm_cfg),
        mask_head=dict(norm_cfg=norm_cfg),
    ),
    train_cfg=dict(
        # The best anchor of an object is positive, however bad (mmdet: from IoU 0.3).
        rpn=dict(assigner=dict(min_pos_iou=0.0)),
        # A proposal below IoU 0.5 is background (mmdet: unless it is an object's best).
        rcnn=dict(assigner=dict(match_low_quality=False)),
    ),
)

# Pillow, as in Detectron2: its bilinear filter averages when it shrinks, that of OpenCV (mmdet) picks pixels.
train_pipeline = [
    dict(type='LoadImageFromFile'),
    # Polygons stay polygons until they are cut to a RoI (mmdet: they become a bitmap, which is resized).
    dict(type='LoadAnnotations', with_bbox=True, with_mask=True, poly2mask=False),
    dict(
        type='RandomChoiceResize',  # mmdet: always 800
        scales=[(1333, 640), (1333, 672), (1333, 704), (1333, 736), (1333, 768), (1333, 800)],
        keep_ratio=True,
        backend='pillow',
    ),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackDetInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=(1333, 800), keep_ratio=True, backend='pillow'),
    dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
    dict(type='PackDetInputs', meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor')),
]
train_dataloader = dict(
    batch_size=2,  # on each of 8 GPUs: 16 images per iteration; with fewer, auto_scale_lr.enable=True
    sampler=dict(type='InfiniteSampler'),  # iterations, not epochs
    dataset=dict(
        filter_cfg=dict(min_size=0),  # mmdet drops images below 32 pixels
        pipeline=train_pipeline,
    ),
)
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader

# mmdet counts 12 epochs, about 88,000 iterations.
train_cfg = dict(_delete_=True, type='IterBasedTrainLoop', max_iters=max_iters, val_interval=6000)
optim_wrapper = dict(paramwise_cfg=dict(norm_decay_mult=0.0))  # mmdet decays weight and bias of BN too
param_scheduler = [
    # 1000 iterations (mmdet: 500); mmengine's end is one more than Detectron2's.
    dict(type='LinearLR', start_factor=0.001, by_epoch=False, begin=0, end=1001),
    dict(type='MultiStepLR', by_epoch=False, begin=0, end=max_iters, milestones=[60_000, 80_000], gamma=0.1),
]
default_hooks = dict(checkpoint=dict(by_epoch=False, interval=6000, max_keep_ckpts=2))
log_processor = dict(by_epoch=False)
