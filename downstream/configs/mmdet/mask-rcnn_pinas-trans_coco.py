# Mask R-CNN with Π-NAS-trans on COCO, as the authors trained it; the paper: 44.11±0.04 box AP, 39.48±0.02 mask AP.
# The authors started from ImageNet weights that they have not published, so this starts from random ones, unless
# --cfg-options model.backbone.init_cfg.type=Pretrained model.backbone.init_cfg.checkpoint=FILE names some.
_base_ = './_base_/mask-rcnn_authors.py'
model = dict(backbone=dict(choices='trans'))
