"""Checkpoints: nothing in a file is executed, a Runner's own are resumed, and no weight is missing unnoticed."""

import functools
import http.server
import os
import pickle
import threading
import zipfile

import mmengine.runner
import pytest
import torch
from mmengine.logging import HistoryBuffer
from mmengine.model import BaseModel
from mmengine.optim import OptimWrapper
from mmengine.runner import CheckpointLoader, Runner, load_checkpoint
from safetensors.torch import save_file
from small_runs import Call
from torch import nn
from torch.utils.data import TensorDataset

from pinas_downstream import PiNAS
from pinas_downstream.patches.checkpoints import load_weights, read


class Classifier(BaseModel):
    """Something small that a Runner can train."""

    def __init__(self):
        super().__init__()
        self.backbone = PiNAS('mini')
        self.head = nn.Linear(512, 3)

    def forward(self, inputs, labels, mode='tensor'):
        logits = self.head(self.backbone(inputs)[-1].mean((2, 3)))
        return {'loss': nn.functional.cross_entropy(logits, labels)} if mode == 'loss' else logits


def runner(folder, iterations, **options):
    torch.manual_seed(0)
    model = Classifier()
    torch.manual_seed(1)
    dataset = TensorDataset(torch.randn(8, 3, 32, 32), torch.arange(8) % 3)
    return Runner(
        model,
        str(folder),
        train_dataloader=dict(
            dataset=dataset,
            sampler=dict(type='InfiniteSampler', shuffle=False),
            batch_size=4,
            num_workers=0,
            collate_fn=dict(type='default_collate'),
        ),
        optim_wrapper=OptimWrapper(torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)),
        param_scheduler=dict(type='MultiStepLR', by_epoch=False, milestones=[1, 3]),
        train_cfg=dict(by_epoch=False, max_iters=iterations),
        default_hooks=dict(checkpoint=dict(type='CheckpointHook', by_epoch=False, interval=2)),
        log_level='ERROR',
        experiment_name=f'{folder.name}{iterations}',  # mmengine wants each to be another
        **options,
    )


def test_a_runner_goes_on_from_its_own_checkpoint(tmp_path):
    whole = runner(tmp_path / 'whole', 4).train()
    resumed = runner(tmp_path / 'parts', 4, load_from=str(tmp_path / 'whole' / 'iter_2.pth'), resume=True)
    assert resumed.train().state_dict().keys() == whole.state_dict().keys()
    assert resumed.iter == 4
    checkpoints = [read(tmp_path / name / 'iter_4.pth') for name in ('whole', 'parts')]
    histories = [checkpoint['message_hub']['log_scalars']['train/loss'] for checkpoint in checkpoints]
    assert type(histories[0]) is HistoryBuffer
    assert histories[0].data[0].shape == histories[1].data[0].shape == (4,)
    assert histories[1].statistics('mean', 2) == pytest.approx(histories[1].data[0][2:].mean())
    assert checkpoints[0]['optimizer']['param_groups'][0]['lr'] == checkpoints[1]['optimizer']['param_groups'][0]['lr']
    # An epoch has two batches in a fixed order: the second half sees the same images in both runs.
    for name, tensor in whole.state_dict().items():
        torch.testing.assert_close(resumed.model.state_dict()[name], tensor, rtol=1e-4, atol=1e-5)


def crafted(path, payload):
    torch.save({'state_dict': Classifier().state_dict(), 'meta': payload}, path)
    return str(path)


def ways_to_load(path):
    yield lambda: read(path)
    yield lambda: load_checkpoint(Classifier(), path)
    yield lambda: load_weights(Classifier(), path)
    yield lambda: mmengine.runner.checkpoint._safe_torch_load(path)
    yield lambda: PiNAS('mini', init_cfg=dict(type='Pretrained', checkpoint=path)).init_weights()
    yield lambda: PiNAS('mini', init_cfg=dict(type='Pretrained', checkpoint=path, prefix='backbone.')).init_weights()
    yield lambda: CheckpointLoader.load_checkpoint(path)


def test_a_crafted_file_is_refused_in_one_line_and_not_executed(tmp_path):
    target = tmp_path / 'executed'
    path = crafted(tmp_path / 'crafted.pth', Call(os.mkdir, str(target)))
    for load in ways_to_load(path):
        with pytest.raises(ValueError, match=r'crafted\.pth: ') as error:
            load()
        assert '\n' not in str(error.value)
        assert 'mkdir' in str(error.value)
    with pytest.raises(ValueError, match='nothing in it was executed'):
        runner(tmp_path / 'run', 2, load_from=path, resume=True).train()
    assert not target.exists()
    pickle.loads(pickle.dumps(Call(os.mkdir, str(target))))
    assert target.exists()  # it would have


@pytest.mark.parametrize(
    'payload',
    [
        Call(getattr, HistoryBuffer, 'update'),
        Call(getattr, Call(getattr, HistoryBuffer, 'mean'), '__globals__'),
        Call(getattr, Call(HistoryBuffer), '__init__'),
        Call(setattr, HistoryBuffer, 'mean', len),
    ],
)
def test_no_attribute_can_be_reached_beyond_the_statistics_of_a_history(payload, tmp_path):
    path = crafted(tmp_path / 'crafted.pth', payload)
    with pytest.raises(ValueError, match='cannot be read as a checkpoint') as error:
        read(path)
    assert 'asks for the attribute' in str(error.value) or 'GLOBAL setattr' in str(error.value)
    assert HistoryBuffer([1.0, 2.0], [1, 1]).mean() == 1.5


def test_a_crafted_file_on_the_web_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv('TORCH_HOME', str(tmp_path / 'cache'))
    target = tmp_path / 'executed'
    crafted(tmp_path / 'crafted.pth', Call(os.mkdir, str(target)))
    torch.save({'state_dict': Classifier().state_dict(), 'message': HistoryBuffer([1.0], [1])}, tmp_path / 'good.pth')
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=tmp_path)
    with http.server.ThreadingHTTPServer(('127.0.0.1', 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f'http://127.0.0.1:{server.server_port}'
        load_checkpoint(Classifier(), f'{address}/good.pth', strict=True)
        with pytest.raises(ValueError, match=r'nothing in it was executed.*mkdir'):
            load_checkpoint(Classifier(), f'{address}/crafted.pth')
        server.shutdown()
    assert not target.exists()


@pytest.mark.filterwarnings('ignore:Detected pickle protocol')
def test_damaged_files(tmp_path):
    path = tmp_path / 'w.pth'
    torch.save({'state_dict': Classifier().state_dict()}, path)
    whole = path.read_bytes()
    for content in (b'', b'text', whole[:-100], whole[: len(whole) // 2], pickle.dumps({'a': 1})):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r'w\.pth: cannot be read as a checkpoint') as error:
            read(path)
        assert '\n' not in str(error.value)
    with zipfile.ZipFile(path, 'w') as archive:
        archive.writestr('a', 'b')
    with pytest.raises(ValueError, match='cannot be read'):
        read(path)
    with pytest.raises(FileNotFoundError, match=r'missing\.pth: no such file'):
        load_checkpoint(Classifier(), str(tmp_path / 'missing.pth'))


def test_weights_must_be_complete(tmp_path):
    weights = Classifier().state_dict()
    path = str(tmp_path / 'w.pth')
    for wrong in (
        {f'model.{name}': tensor for name, tensor in weights.items()},  # a wrong prefix
        {name: tensor for name, tensor in weights.items() if name != 'backbone.layer2.0.bn1.weight'},
        {**weights, 'backbone.layer2.0.bn1.weight': torch.ones(5)},
    ):
        torch.save({'state_dict': wrong}, path)
        with pytest.raises(ValueError, match=r'does not fill the backbone: (missing|wrong).*; it has .*init_cfg'):
            load_checkpoint(Classifier(), path)
        with pytest.raises(ValueError, match=r'(missing names|wrong shapes): \d+ \('):
            load_weights(Classifier(), path)
    headless = {name: tensor for name, tensor in weights.items() if not name.startswith('head.')}
    torch.save({'state_dict': headless}, path)
    model = Classifier()
    load_checkpoint(model, path)  # to go on with another head
    assert all(torch.equal(tensor, headless[name]) for name, tensor in model.state_dict().items() if name in headless)
    with pytest.raises(ValueError, match=r'missing names: 2 \(head\.weight, head\.bias\)'):
        load_weights(Classifier(), path)
    # Counters are absent in old files, and DistributedDataParallel puts a word before the names.
    complete = {f'module.{name}': tensor for name, tensor in weights.items() if 'num_batches' not in name}
    torch.save({'state_dict': complete}, path)
    for load in (load_checkpoint, load_weights):
        model = Classifier()
        load(model, path)
        assert all(torch.equal(tensor, weights[name]) for name, tensor in model.state_dict().items())


def test_strict_loading_says_what_is_wrong(tmp_path):
    weights = Classifier().state_dict()
    weights['head.weight'], weights['more'] = torch.zeros(5, 512), torch.zeros(1)
    path = tmp_path / 'w.safetensors'
    save_file(weights, path)
    message = (
        r'does not fit the model: unknown names: 1 \(more\); '
        r'wrong shapes: 1 \(head\.weight \[5, 512\] instead of \[3, 512\]\)'
    )
    with pytest.raises(ValueError, match=message):
        load_weights(Classifier(), path)
    load_checkpoint(Classifier(), str(path))  # fine-tuning for other classes stays possible


def test_other_models_are_loaded_as_leniently_as_before(tmp_path):
    path = str(tmp_path / 'w.pth')
    torch.save({'state_dict': {'weight': torch.ones(2, 2)}}, path)
    model = nn.Linear(2, 2)
    load_checkpoint(model, path)
    assert model.weight.eq(1).all()
