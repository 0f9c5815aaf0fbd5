"""Studies: several runs over seeds, which are judged by the same truth and compared with one of them."""

from .spec import Study, StudyRun, builtin_studies, read_study

__all__ = ['Study', 'StudyRun', 'builtin_studies', 'read_study']
