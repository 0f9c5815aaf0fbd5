# DeepLabV3 with ResNeSt-50 on ADE20K, the authors' baseline; the paper: 45.18±0.06 mIoU, 81.22±0.05
# pixel accuracy.
_base_ = './_base_/deeplabv3_ade20k.py'
model = dict(backbone=dict(choices='resnest50', init_cfg=dict(type='Pretrained', checkpoint='resnest50d.in1k')))
