# DeepLabV3 with Π-NAS-trans on ADE20K, as the authors trained it; the paper: 45.49±0.02 mIoU, 81.31±0.04
# pixel accuracy. The authors started from ImageNet weights that they have not published, so this starts from random
# ones, unless --cfg-options model.backbone.init_cfg.type=Pretrained model.backbone.init_cfg.checkpoint=FILE names some.
_base_ = './_base_/deeplabv3_ade20k.py'
model = dict(backbone=dict(choices='trans'))
