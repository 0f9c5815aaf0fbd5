"""What the import of the package does and in which order it may come, each in a process of its own."""

import io
import re
import struct
import subprocess
import sys
import textwrap
import zlib
from pathlib import Path

from PIL import Image


def run(code, cwd):
    """Run code in a fresh interpreter; the last line of what it printed, or of its error."""
    result = subprocess.run(
        [sys.executable, '-c', textwrap.dedent(code)], cwd=cwd, capture_output=True, text=True, timeout=120, check=False
    )
    return (result.stdout if result.returncode == 0 else result.stderr).strip().splitlines()[-1]


def test_import_loads_no_heavy_package(tmp_path):
    code = """
        import sys, pinas_downstream
        heavy = ('torch', 'torchvision', 'timm', 'cv2', 'mmcv', 'mmdet', 'mmseg', 'pinas_models')
        print([name for name in heavy if name in sys.modules])
    """
    assert run(code, tmp_path) == '[]'


def test_a_compiled_module_wins_over_the_stand_in(tmp_path):
    (tmp_path / 'mmcv').mkdir()
    (tmp_path / 'mmcv' / '__init__.py').write_text('')
    code = """
        import pinas_downstream, importlib.util
        print(importlib.util.find_spec('mmcv._ext').origin)
    """
    assert run(code, tmp_path) == 'pinas_downstream: operators of torchvision'
    compiled = tmp_path / 'mmcv' / '_ext.py'
    compiled.write_text('')
    assert run(code, tmp_path) == str(compiled)


def test_mmengine_and_mmcv_find_the_operators_only_with_the_package(tmp_path):
    code = """
        from mmengine.utils.dl_utils import mmcv_full_available
        without = mmcv_full_available()
        import pinas_downstream
        from mmcv.utils import collect_env
        print(without, mmcv_full_available(), collect_env()['MMCV Compiler'])
    """
    assert run(code, tmp_path) == 'False True not compiled: operators of torchvision'


def test_a_late_import_gives_the_operators_to_what_had_none(tmp_path):
    (tmp_path / 'config.py').write_text("custom_imports = dict(imports=['pinas_downstream'])\n")
    code = """
        from contextlib import suppress
        with suppress(ModuleNotFoundError):  # that is what mmdet of the originals says; the forks go on without
            import mmdet.structures.mask, mmdet.utils
        from mmengine.config import Config
        Config.fromfile('config.py')
        import numpy as np, torch
        from mmdet.structures.mask import BitmapMasks
        from mmdet.utils.large_image import batched_nms
        masks, boxes = BitmapMasks(np.ones((1, 8, 8), np.uint8), 8, 8), np.array([[0, 0, 8, 8]], np.float32)
        kept = batched_nms(torch.tensor(boxes), torch.ones(1), torch.ones(1), dict(type='nms', iou_threshold=0.5))[1]
        print(masks.crop_and_resize(boxes, (2, 2), inds=np.array([0])).masks.astype(int).tolist(), kept.tolist())
    """
    assert run(code, tmp_path) == '[[[1, 1], [1, 1]]] [0]'


def test_the_versions_of_both_families_stand_in_one_file():
    root = Path(__file__).parents[2]
    project = (root / 'pyproject.toml').read_text(encoding='utf-8')
    sessions = (root / 'noxfile.py').read_text(encoding='utf-8')
    assert not re.search(r'[\w\]][<>=~]=?\d', sessions)
    families = re.findall(r"_downstream\(session, '([\w-]+)'\)", sessions)
    assert families == ['downstream', 'downstream-onedl']
    assert all(f'\n{family} = [' in project for family in families)


def test_images_of_named_formats_and_sizes_only(tmp_path):
    """mmcv reads label maps by Pillow, which would start Ghostscript, and the rest by OpenCV."""
    pixel = io.BytesIO()
    Image.new('L', (4, 4)).save(pixel, 'EPS')
    (tmp_path / 'map.png').write_bytes(pixel.getvalue())
    part = struct.pack('>4sIIBBBBB', b'IHDR', 20000, 20000, 8, 0, 0, 0, 0)
    head = b'\x89PNG\r\n\x1a\n' + struct.pack('>I', 13) + part + struct.pack('>I', zlib.crc32(part))
    (tmp_path / 'large.png').write_bytes(head + struct.pack('>I4sI', 0, b'IDAT', 0x35AF061E))
    code = """
        from contextlib import suppress
        from pinas_downstream.cli import main
        with suppress(SystemExit):
            main(['--help'])
        import mmcv
        from pinas_downstream.running.explain import explaining
        for file, backend in (('map.png', 'pillow'), ('large.png', 'pillow'), ('large.png', 'cv2')):
            try:
                with explaining():
                    mmcv.imread(file, flag='unchanged', backend=backend)
            except Exception as error:
                print(type(error).__name__, str(error)[:90], end='; ')
    """
    printed = run(code, tmp_path).split('; ')
    assert [line.split(' ')[0] for line in printed[:3]] == ['ValueError', 'ValueError', 'ValueError'], printed
    assert 'none of the formats' in printed[0]
    assert '400000000 pixels' in printed[1]
    assert 'more than 178,956,970 pixels' in printed[2]


def test_the_loader_of_mmengine_is_replaced_if_it_was_imported_before(tmp_path):
    code = """
        import mmengine.runner, pinas_downstream
        print(mmengine.runner.checkpoint.CheckpointLoader._get_checkpoint_loader('a.pth').__module__)
    """
    assert run(code, tmp_path) == 'pinas_downstream.patches.checkpoints'
