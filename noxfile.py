"""Versions of Python and of OpenMMLab, one environment each: ``nox -l`` lists the sessions, ``nox -s NAME`` runs one.

``make test`` checks one environment, this all of them.
"""

import nox

PYTHONS = ('3.10', '3.11', '3.12', '3.13')

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
    _downstream(session, 'downstream')


@nox.session(python=PYTHONS)
def downstream_forks(session: nox.Session) -> None:
    """Detection and segmentation with the forks of OpenMMLab that live on."""
    _downstream(session, 'downstream-onedl')


def _downstream(session: nox.Session, family: str) -> None:
    """Test with a family's extra, whose versions stand in pyproject.toml; the families share their import names."""
    session.install('--prefer-binary', '-e', f'.[{family},test]')
    session.run('pytest', 'tests/downstream', '-n', '2', *session.posargs, env=ONE_THREAD)
