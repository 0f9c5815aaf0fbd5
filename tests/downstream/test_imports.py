"""What the import of the package does and in which order it may come, each in a process of its own."""

import subprocess
import sys
import textwrap


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


def test_too_late_is_an_error_that_says_what_to_do(tmp_path):
    (tmp_path / 'config.py').write_text("custom_imports = dict(imports=['pinas_downstream'])\n")
    code = """
        import mmdet.structures.mask
        from mmengine.config import Config
        Config.fromfile('config.py')
    """
    message = run(code, tmp_path)
    assert message.startswith('RuntimeError: pinas_downstream was imported after mmdet.structures.mask.structures')
    assert 'write import pinas_downstream before every import of mmdet or mmseg' in message


def test_the_loader_of_mmengine_is_replaced_if_it_was_imported_before(tmp_path):
    code = """
        import mmengine.runner, pinas_downstream
        print(mmengine.runner.checkpoint.CheckpointLoader._get_checkpoint_loader('a.pth').__module__)
    """
    assert run(code, tmp_path) == 'pinas_downstream.patches.checkpoints'
