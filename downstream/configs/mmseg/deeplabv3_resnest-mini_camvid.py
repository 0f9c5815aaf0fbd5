# The twin of deeplabv3_pinas-mini_camvid with ResNeSt's block at every position, from random weights.
_base_ = './deeplabv3_pinas-mini_camvid.py'
model = dict(backbone=dict(choices=[1] * 8, init_cfg=None))
