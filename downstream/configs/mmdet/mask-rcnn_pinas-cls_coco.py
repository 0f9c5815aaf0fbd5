# Mask R-CNN with Π-NAS-cls on COCO, as the authors trained it; the paper: 43.72 box AP, 39.13 mask AP. It starts from
# the ImageNet weights of the Hub or of a file: --cfg-options model.backbone.init_cfg.checkpoint=FILE
_base_ = './_base_/mask-rcnn_authors.py'
model = dict(backbone=dict(choices='cls', init_cfg=dict(type='Pretrained', checkpoint='pinas_cls.in1k')))
