# DeepLabV3 with the settings of the authors' experiments in PyTorch-Encoding, for any data set. Comments: where mmseg's
# own default differs, and why it is not taken.
_base_ = [
    'mmseg::_base_/models/deeplabv3_r50-d8.py',
    'mmseg::_base_/schedules/schedule_160k.py',
    'mmseg::_base_/default_runtime.py',
]
custom_imports = dict(imports=['pinas_downstream'], allow_failed_imports=False)

norm_cfg = dict(type='SyncBN')  # on one process it becomes BN by itself
# align_corners: the authors', in every resize (mmseg: False). avg_non_ignore: the mean over the pixels that have a
# label (mmseg: over all, so that the loss depends on how much is padded).
head = dict(norm_cfg=norm_cfg, align_corners=True)
loss = dict(type='CrossEntropyLoss', use_sigmoid=False, avg_non_ignore=True)
model = dict(
    type='MultiEvalEncoderDecoder',  # mmseg's EncoderDecoder with the authors' evaluation
    pretrained=None,  # the base's names weights of its own backbone
    backbone=dict(_delete_=True, type='PiNAS', output_stride=8, norm_cfg=norm_cfg),
    decode_head=dict(  # mmseg's ASPPHead has other layers
        _delete_=True,
        type='EncodingDeepLabHead',
        in_channels=2048,
        in_index=3,
        channels=256,
        dilations=(12, 24, 36),
        loss_decode=dict(loss_weight=1.0, **loss),
        **head,
    ),
    auxiliary_head=dict(  # mmseg's FCNHead drops whole channels
        _delete_=True,
        type='EncodingFCNHead',
        in_channels=1024,
        in_index=2,
        channels=256,
        loss_decode=dict(loss_weight=0.2, **loss),  # mmseg: 0.4
        **head,
    ),
)

# mmseg: lr 0.01 for all parameters, weight decay 5e-4.
optimizer = dict(lr=0.004, weight_decay=1e-4)  # for 16 images per iteration
optim_wrapper = dict(
    optimizer=optimizer,
    paramwise_cfg=dict(custom_keys=dict(head=dict(lr_mult=10.0))),  # decode_head and auxiliary_head
)
auto_scale_lr = dict(enable=False, base_batch_size=16)  # the authors' rule: lr in proportion to the batch
