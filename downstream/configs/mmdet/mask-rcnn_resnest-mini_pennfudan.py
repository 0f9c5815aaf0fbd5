# The twin of mask-rcnn_pinas-mini_pennfudan with ResNeSt's block at every position, from random weights.
_base_ = './mask-rcnn_pinas-mini_pennfudan.py'
model = dict(backbone=dict(choices=[1] * 8, init_cfg=None))
