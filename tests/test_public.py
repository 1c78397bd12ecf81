"The public surface: what `from quantizer.all import *` brings into a notebook, and what each module exports"
import ast, importlib, inspect
from collections import defaultdict
from pathlib import Path
from types import ModuleType

import pytest
import quantizer.all
from quantizer.core.registry import Registry

lib = Path(quantizer.__file__).parent
public = {k: getattr(quantizer.all, k) for k in quantizer.all.__all__}

def module_names():
    "Every module of the package, as a dotted name"
    skipped = ('_modidx', '__main__', '__init__')
    for path in sorted(lib.rglob('*.py')):
        if path.stem not in skipped: yield '.'.join(path.relative_to(lib.parent).with_suffix('').parts)

def exports(name):
    "What the module `name` lists in `__all__` for its own"
    path = lib.parent/(name.replace('.', '/')+'.py')
    for node in ast.parse(path.read_text(encoding='utf-8')).body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], 'id', '') == '__all__' and isinstance(node.value, ast.List):
            return ast.literal_eval(node.value)
    return []

def test_exports_are_disjoint():
    "A name means one thing in the whole package, so no import can hide another one"
    homes = defaultdict(list)
    for module in module_names():
        for name in exports(module): homes[name].append(module)
    twice = {k: v for k, v in homes.items() if len(v) > 1}
    assert not twice

def test_registries_are_public():
    "Each registry of the package is reachable by its name, and it is the registry itself: a user can add to it"
    found = {}
    for module in module_names():
        for name, value in vars(importlib.import_module(module)).items():
            if isinstance(value, Registry): found[name] = value
    assert {'FEATURES', 'QUANTIZERS', 'ENCODERS', 'DECODERS', 'LOSSES', 'SCHEDULES', 'LOGGERS'} <= found.keys()
    hidden = [k for k, v in found.items() if public.get(k) is not v]
    assert not hidden

def test_loss_can_be_added():
    "The documented way to add a loss works after a star import"
    names = {}
    exec('from quantizer.all import *', names)
    @names['LOSSES'].register('test_loss')
    def test_loss(y, x): return (y-x).abs()
    assert names['check_model'](dict(encoder=dict(name='conv'), quantizer=dict(name='vq'), decoder=dict(name='conv'), losses=dict(test_loss=1.)))
    del names['LOSSES']['test_loss']

def test_about_a_hundred_names():
    assert 80 <= len(public) <= 100

@pytest.mark.parametrize('name', public)
def test_public_name_is_documented(name):
    "A public name is a class, a function, a registry or a constant; classes and functions say what they are for"
    value = public[name]
    assert not name.startswith('_') and not isinstance(value, ModuleType)
    if not (inspect.isclass(value) or inspect.isfunction(value)): return
    assert value.__module__.split('.')[0] in (lib.name, 'fastai'), 'it belongs to another package'
    assert inspect.getdoc(value), 'it has no docstring'
