# DeepLabV3 with Π-NAS-trans on Cityscapes, as the authors trained it; the paper: 80.40±0.30 mIoU.
# The authors started from ImageNet weights that they have not published, so this starts from random ones, unless
# --cfg-options model.backbone.init_cfg.type=Pretrained model.backbone.init_cfg.checkpoint=FILE names some.
_base_ = './_base_/deeplabv3_cityscapes.py'
model = dict(backbone=dict(choices='trans'))
