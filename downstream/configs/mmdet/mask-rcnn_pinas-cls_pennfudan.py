# mask-rcnn_pinas-mini_pennfudan with the large network, from the ImageNet weights that --cfg-options
# model.backbone.init_cfg.checkpoint=FILE names, or those of the Hub.
_base_ = './mask-rcnn_pinas-mini_pennfudan.py'
model = dict(
    data_preprocessor=dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375]),  # ImageNet's
    backbone=dict(
        _delete_=True, type='PiNAS', choices='cls', init_cfg=dict(type='Pretrained', checkpoint='pinas_cls.in1k')
    ),
    neck=dict(in_channels=[256, 512, 1024, 2048]),
)
