# Mask R-CNN with ResNeSt-50 on COCO, the authors' baseline; the paper: 42.81±0.02 box AP, 38.14±0.01 mask AP.
_base_ = './_base_/mask-rcnn_authors.py'
model = dict(backbone=dict(choices='resnest50', init_cfg=dict(type='Pretrained', checkpoint='resnest50d.in1k')))
