# DeepLabV3 with Π-NAS-cls on Cityscapes, with the authors' settings; they report no result. It starts from the ImageNet
# weights of the Hub or of a file: --cfg-options model.backbone.init_cfg.checkpoint=FILE
_base_ = './_base_/deeplabv3_cityscapes.py'
model = dict(backbone=dict(choices='cls', init_cfg=dict(type='Pretrained', checkpoint='pinas_cls.in1k')))
