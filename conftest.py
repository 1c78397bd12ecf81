"Notebooks are test files: each cell that checks something is one test, run in order in one shell per notebook"
import ast, os, sys, traceback, unittest
from pathlib import Path

import hypothesis, pytest
from execnb.shell import CaptureShell
from fastcore.nbio import write_nb
from fastcore.xtras import working_directory
from nbdev.process import NBProcessor
from nbdev.test import nb_test_cells

root = Path(__file__).parent
lib = 'quantizer'
hypothesis.settings.register_profile('same', derandomize=True, database=None, deadline=None)  # the same examples every time
hypothesis.settings.load_profile('same')
os.environ.update(HF_HUB_OFFLINE='1', IN_TEST='1', MPLBACKEND='Agg')  # `IN_TEST`: an `nbdev_export()` that closes a notebook does nothing

def pytest_addoption(parser):
    parser.addoption('--slow', action='store_true', help='also run what is marked slow: tests, and cells flagged `#| slow`')
    parser.addoption('--save', action='store_true', help='write the outputs into the notebooks that pass')

def pytest_configure(config):
    "`pytest tests` runs the notebooks too"
    given = {Path(o).resolve() for o in config.args}
    if root/'tests' in given and root/'nbs' not in given: config.args.append(str(root/'nbs'))

def files(): return {o for d in ('nbs', lib) for o in (root/d).rglob('*') if not {'__pycache__', '.ipynb_checkpoints'} & {*o.parts}}

def pytest_sessionstart(session): session.config.files = files()

def pytest_sessionfinish(session):
    "Tests leave nothing behind"
    left = sorted(map(str, files()-session.config.files))
    if left and not hasattr(session.config, 'workerinput'):
        print('\nThe tests left files behind:', *left, sep='\n')
        session.exitstatus = pytest.ExitCode.TESTS_FAILED

def pytest_collection_modifyitems(config, items):
    if config.getoption('slow'): return
    for o in items:
        if o.get_closest_marker('slow'): o.add_marker(pytest.mark.skip(reason='slow: run with --slow'))

def pytest_collect_file(file_path, parent):
    hidden = any(o[0] in '_.' for o in file_path.relative_to(root).parts)
    if file_path.suffix=='.ipynb' and not hidden: return Notebook.from_parent(parent, path=file_path)

def checks(src):
    "Does `src` check anything?"
    try: nodes = ast.walk(ast.parse(src))
    except SyntaxError: return False  # a magic
    def name(f): return getattr(f, 'id', getattr(f, 'attr', ''))
    return any(isinstance(o, ast.Assert) or isinstance(o, ast.Call) and name(o.func).startswith(('test_', 'expect_fail')) for o in nodes)

def cuda():
    import torch
    return torch.cuda.is_available()

class Notebook(pytest.File):
    "The cells of a notebook in groups: each ends with a cell that checks, the last one with the notebook"
    def collect(self):
        self.nb,self.groups,todo = NBProcessor(self.path, rm_directives=False, process=True).nb,[],[]
        for idx in [o.idx_ for o in nb_test_cells(self.path, force_flags=['slow', 'cuda'])]:
            c = self.nb.cells[idx]
            off = self.off(c)
            if not off: todo.append(c)
            if checks(c.source):
                yield self.item(f'cell{idx:02d}', [] if off else todo, off)
                if not off: todo = []
        if todo: yield self.item('end', todo)

    def item(self, name, group, off=None):
        self.groups.append(group)
        res = Cells.from_parent(self, name=name, idx=len(self.groups)-1)
        if off: res.add_marker(pytest.mark.skip(reason=off))
        return res

    def off(self, cell):
        "Why `cell` is left out, if it is"
        if 'slow' in cell.directives_ and not self.config.getoption('slow'): return 'slow: run with --slow'
        if 'cuda' in cell.directives_ and not cuda(): return 'needs a CUDA GPU'

    def setup(self):
        "A fresh shell, and a fresh package: what an earlier notebook registered or patched is gone"
        self.before = {k:sys.modules.pop(k) for k in [*sys.modules] if k.split('.')[0]==lib}
        self.shell = CaptureShell(self.path, mpl_format='png' if self.config.getoption('save') else None)
        self.done,self.failed = 0,None

    def teardown(self):
        self.shell.run("import sys\nif 'matplotlib.pyplot' in sys.modules: sys.modules['matplotlib.pyplot'].close('all')")
        self.shell.close()
        for k in [*sys.modules]:
            if k.split('.')[0]==lib: del sys.modules[k]
        sys.modules.update(self.before)
        all_run = not any(self.groups[self.done:])  # those left out are empty
        if self.config.getoption('save') and all_run and not self.failed: write_nb(self.nb, self.path)

    def run_to(self, idx):
        "Run the groups up to `idx`; the exception that ended the last one"
        while self.done<=idx:
            exc = self.run(self.groups[self.done])
            self.done += 1
            if exc and not isinstance(exc, (unittest.SkipTest, pytest.skip.Exception)): break
        return exc

    def run(self, cells):
        with working_directory(self.path.parent):
            for c in cells:
                outputs = c.outputs
                self.shell.cell(c)
                if self.shell.exc:
                    c.outputs = outputs
                    return self.shell.exc

class Cells(pytest.Item):
    "The cells since the last check, then the one that checks"
    def __init__(self, *, idx, **kw):
        super().__init__(**kw)
        self.idx = idx

    def runtest(self):
        nb = self.parent
        if nb.failed: pytest.skip(f'{nb.failed} failed')
        exc = nb.run_to(self.idx)
        if isinstance(exc, (unittest.SkipTest, pytest.skip.Exception)): pytest.skip(str(exc))
        if exc:
            nb.failed = self.name
            raise exc

    def repr_failure(self, excinfo):
        "The traceback from the cell on"
        tb = excinfo.value.__traceback__
        while tb and not tb.tb_frame.f_code.co_name.startswith(('<module>', '<cell line')): tb = tb.tb_next
        return ''.join(traceback.format_exception(excinfo.type, excinfo.value, tb))

    def reportinfo(self): return self.path, 0, f'{self.path.relative_to(root)}::{self.name}'
