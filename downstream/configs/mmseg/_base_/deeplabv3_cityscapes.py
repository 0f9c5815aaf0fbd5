# The authors' DeepLabV3 on Cityscapes (2,975 training and 500 validation images, 19 classes). mmseg reads
# *_gtFine_labelTrainIds.png, which cityscapesscripts makes.
_base_ = ['./deeplabv3_authors.py', 'mmseg::_base_/datasets/cityscapes.py']

data_root = 'data/cityscapes/'  # the base's; --data-root replaces it
base_size = 2048
crop_size = (768, 768)
epoch = 2_975 // 16  # iterations of 16 images
max_iters = 240 * epoch

multi_eval = dict(
    base_size=base_size, crop_size=crop_size[0], scales=(0.75, 1.0, 1.25, 1.5, 1.75, 2.0, 2.25), flip=True
)
model = dict(
    data_preprocessor=dict(size=crop_size),
    decode_head=dict(num_classes=19),
    auxiliary_head=dict(num_classes=19),
    test_cfg=dict(mode='multi_eval', **multi_eval),  # mmseg: the whole image at once
)

train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations'),
    dict(type='RandomFlip', prob=0.5),
    # The longer side is 1024..4096.
    # Pillow, as in PyTorch-Encoding: its bilinear filter averages when it shrinks, that of OpenCV (mmseg) picks pixels.
    dict(
        type='RandomResize',
        scale=(base_size, base_size),
        ratio_range=(0.5, 2.0),
        keep_ratio=True,
        backend='pillow',
    ),
    # Black before normalisation (mmseg: the mean colour, after it).
    dict(type='Pad', size=crop_size, pad_val=dict(img=0, seg=255)),
    # Any crop, and the colours as they are (mmseg: at most 75 % of one class, PhotoMetricDistortion).
    dict(type='RandomCrop', crop_size=crop_size, cat_max_ratio=1.0),
    dict(type='PackSegInputs'),
]
# The evaluation resizes by itself.
test_pipeline = [dict(type='LoadImageFromFile'), dict(type='LoadAnnotations'), dict(type='PackSegInputs')]
tta_pipeline = test_pipeline
tta_model = dict(type='MultiEval', **multi_eval)
train_dataloader = dict(
    batch_size=2,  # on each of 8 GPUs: 16 images per iteration; with fewer, auto_scale_lr.enable=True
    dataset=dict(pipeline=train_pipeline),
)
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
# mIoU over all classes, with 0 for a class that neither the labels nor the predictions have (mmseg leaves it out).
val_evaluator = dict(nan_to_num=0)
test_evaluator = val_evaluator

# Validation is the evaluation of the paper. It takes 256 windows per image, as much as 14 epochs of training: at the
# end only.
train_cfg = dict(max_iters=max_iters, val_interval=max_iters)
# mmseg ends at lr 1e-4, which is 2.5 % of this one.
param_scheduler = [
    dict(type='PolyLR', power=0.9, eta_min=0.0, by_epoch=False, begin=0, end=max_iters + 1),
]
default_hooks = dict(checkpoint=dict(interval=20 * epoch, max_keep_ckpts=2))
