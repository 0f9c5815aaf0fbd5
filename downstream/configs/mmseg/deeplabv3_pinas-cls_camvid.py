# deeplabv3_pinas-mini_camvid with the large network, from the ImageNet weights that --cfg-options
# model.backbone.init_cfg.checkpoint=FILE names, or those of the Hub.
_base_ = './deeplabv3_pinas-mini_camvid.py'
model = dict(
    data_preprocessor=dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375]),  # ImageNet's
    backbone=dict(
        _delete_=True,
        type='PiNAS',
        choices='cls',
        output_stride=8,
        init_cfg=dict(type='Pretrained', checkpoint='pinas_cls.in1k'),
    ),
    decode_head=dict(in_channels=2048),
    auxiliary_head=dict(in_channels=1024),
)
