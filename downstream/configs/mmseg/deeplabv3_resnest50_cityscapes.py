# DeepLabV3 with ResNeSt-50 on Cityscapes, the authors' baseline; the paper: 80.08±0.20 mIoU.
_base_ = './_base_/deeplabv3_cityscapes.py'
model = dict(backbone=dict(choices='resnest50', init_cfg=dict(type='Pretrained', checkpoint='resnest50d.in1k')))
