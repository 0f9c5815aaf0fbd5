"""Versions of Python and of OpenMMLab, one environment each: ``nox -l`` lists the sessions, ``nox -s NAME`` runs one.

``make test`` checks one environment, this all of them.
"""

import nox

PYTHONS = ('3.10', '3.11', '3.12', '3.13')

# The two families share their import names, so an environment holds one of them.
ORIGINALS = ('mmengine>=0.10.7,<0.11', 'mmcv-lite>=2.1,<2.2', 'mmdet>=3.3,<3.4', 'mmsegmentation>=1.2.2,<1.3')
FORKS = (
    'onedl-mmengine>=0.10.12,<0.11',
    'onedl-mmcv>=2.3.6,<2.4',
    'onedl-mmdetection>=3.5.1,<3.6',
    'onedl-mmsegmentation>=1.4.2,<1.5',
)
# mmengine's environment report and mmcv-lite import pkg_resources; mmsegmentation imports ftfy.
NEEDED = ('setuptools<81', 'ftfy>=6', 'faster-coco-eval>=1.8,<2')

ONE_THREAD = {'OMP_NUM_THREADS': '1'}

nox.options.sessions = ['models_and_search', 'downstream_originals', 'downstream_forks']


@nox.session(python=PYTHONS)
def models_and_search(session: nox.Session) -> None:
    """The networks and the search; the test of the wheel also looks at the configurations of the third package."""
    session.install('--prefer-binary', '-e', '.[search,downstream,export,test]')
    session.run('pytest', 'tests/models', 'tests/search', '-n', '2', *session.posargs, env=ONE_THREAD)


@nox.session(python=PYTHONS)
def downstream_originals(session: nox.Session) -> None:
    """Detection and segmentation with mmengine, mmcv-lite, mmdet and mmsegmentation."""
    _downstream(session, ORIGINALS)


@nox.session(python=PYTHONS)
def downstream_forks(session: nox.Session) -> None:
    """Detection and segmentation with the forks of OpenMMLab that live on."""
    _downstream(session, FORKS)


def _downstream(session: nox.Session, family: tuple[str, ...]) -> None:
    session.install('--prefer-binary', '-e', '.[test]', *NEEDED, *family)
    session.run('pytest', 'tests/downstream', '-n', '2', *session.posargs, env=ONE_THREAD)
