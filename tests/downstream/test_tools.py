"""The programs of mmdet and mmseg as they come, in processes of their own, with our backbone in the configuration."""

import os
import subprocess
import sys
from pathlib import Path

import mmdet
import mmseg
import pytest
from small_runs import DETECTOR, SEGMENTOR, SMALL, SMALL_TEST, WITHOUT_VALIDATION

from pinas_downstream.cli import main
from pinas_downstream.config import load_config


def tool(package, name):
    return str(Path(package.__file__).parent / '.mim' / 'tools' / f'{name}.py')


def run(cwd, *command):
    """Run Python; returns the exit code and what it printed."""
    environment = {**os.environ, 'HF_HUB_OFFLINE': '1', 'OMP_NUM_THREADS': '1'}
    done = subprocess.run(
        [sys.executable, *map(str, command)], cwd=cwd, env=environment, capture_output=True, text=True, timeout=300
    )
    return done.returncode, done.stdout + done.stderr


def complete(name, data_root, file):
    """A configuration without bases, as somebody may have it."""
    config = load_config(name, data_root=str(data_root))
    config.dump(file)
    return file


def settings(name):
    return ['--cfg-options', *SMALL[name], *([SMALL_TEST] if name == DETECTOR else [])]


def test_mmseg_needs_no_import_before_the_configuration(tiny_camvid, tmp_path):
    config = complete(SEGMENTOR, tiny_camvid, tmp_path / 'config.py')
    code, output = run(tmp_path, tool(mmseg, 'train'), config, '--work-dir', 'work', *settings(SEGMENTOR))
    assert code == 0, output[-3000:]
    code, output = run(tmp_path, tool(mmseg, 'test'), config, 'work/iter_2.pth', '--work-dir', 'work')
    assert code == 0, output[-3000:]
    assert 'mIoU' in output


def test_mmdet_by_the_command(tiny_pennfudan, tmp_path):
    """A configuration that does not import the package either."""
    config = complete(DETECTOR, tiny_pennfudan, tmp_path / 'config.py')
    config.write_text(config.read_text().replace("'pinas_downstream',", "'json',"))
    ours = ['-m', 'pinas_downstream.cli', 'tool']
    options = [*settings(DETECTOR), *WITHOUT_VALIDATION]
    code, output = run(tmp_path, *ours, 'mmdet/train', config, '--work-dir', 'work', *options)
    assert code == 0, output[-3000:]
    code, output = run(
        tmp_path, *ours, tool(mmdet, 'test'), config, 'work/epoch_1.pth', '--work-dir', 'work', *settings(DETECTOR)
    )
    assert code == 0, output[-3000:]
    assert 'segm_mAP' in output


def test_a_program_ends_as_it_does_alone(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, 'argv', sys.argv)
    monkeypatch.setattr(sys, 'path', [*sys.path])
    (tmp_path / 'neighbour.py').write_text('CODE = 3')
    (tmp_path / 'tool.py').write_text(
        'import sys, neighbour\nif sys.argv[1:] == ["--help"]: sys.exit(neighbour.CODE)\nraise ValueError(sys.argv[1])'
    )
    with pytest.raises(SystemExit) as exit:
        main(['tool', str(tmp_path / 'tool.py'), '--help'])
    assert exit.value.code == 3
    assert main(['tool', str(tmp_path / 'tool.py'), 'seven', '--debug']) == 1
    error = capsys.readouterr().err
    assert error.startswith('Traceback')
    assert error.endswith('ValueError: seven\n')


def test_mmdet_trains_without_the_command(tiny_pennfudan, tmp_path):
    """Its training tool imports no operators before it reads the configuration. The one for tests does, and stops."""
    config = complete(DETECTOR, tiny_pennfudan, tmp_path / 'config.py')
    code, output = run(tmp_path, tool(mmdet, 'train'), config, '--work-dir', 'work', *settings(DETECTOR))
    assert code == 0, output[-3000:]
    assert 'segm_mAP' in output
    code, output = run(tmp_path, tool(mmdet, 'test'), config, 'work/epoch_1.pth')
    assert output.splitlines()[-1] == "ModuleNotFoundError: No module named 'mmcv._ext'"


SCRIPT = """
import sys, torch
{first}
from mmdet.apis import DetInferencer, init_detector
from mmseg.apis import MMSegInferencer, inference_model, init_model
detector, weights, image, segmentor, other, scene = sys.argv[1:]
model = init_detector(detector, weights, device='cpu')
print(model.dataset_meta['classes'], len(model.backbone.choices))
found = DetInferencer(detector, weights, device='cpu')(image, no_save_vis=True, no_save_pred=True)
print(len(found['predictions'][0]['scores']) > 0)
model = init_model(segmentor, other, device='cpu')
print(tuple(inference_model(model, scene).pred_sem_seg.data.shape))
print(MMSegInferencer(segmentor, other, device='cpu')(scene)['predictions'].shape)
"""


@pytest.mark.parametrize('first', ['import pinas_downstream', ''])
def test_models_and_inferencers(first, trained_detector, trained_segmentor, tiny_pennfudan, tiny_camvid, tmp_path):
    """In Python behind the import; in a program that cannot be changed by the command."""
    (tmp_path / 'script.py').write_text(SCRIPT.format(first=first))
    arguments = [
        complete(DETECTOR, tiny_pennfudan, tmp_path / 'detector.py'), trained_detector,
        tiny_pennfudan / 'val' / 'val0.jpg', complete(SEGMENTOR, tiny_camvid, tmp_path / 'segmentor.py'),
        trained_segmentor, tiny_camvid / 'images' / 'test' / '0.jpg',
    ]  # fmt: skip
    command = ['script.py'] if first else ['-m', 'pinas_downstream.cli', 'tool', 'script.py']
    code, output = run(tmp_path, *command, *arguments)
    assert code == 0, output[-3000:]
    for line in ("('person',) 8", 'True', '(1, 66, 80)', '(66, 80)'):
        assert line in output.splitlines()
