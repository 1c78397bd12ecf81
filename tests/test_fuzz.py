"Damaged and hostile files: those that once broke a reader, and a few new ones of each kind; `make fuzz` runs many"
import subprocess
import sys
from pathlib import Path

FUZZ = Path(__file__).parent/'fuzz.py'
SURFACES = ('manifests','audio','configs','tokens','tokenizers','stores','checkpoints')

def test_inputs(tmp_path):
    saved = sorted((FUZZ.parent/'fuzz_inputs').glob('*/*'))
    assert {o.parent.name for o in saved} == {*SURFACES}
    res = subprocess.run([sys.executable, '-W', 'ignore', FUZZ, '--replay', *saved, '--inputs', '1400', '--jobs', '1', '--out', tmp_path], capture_output=True, text=True, errors='replace')
    assert res.returncode == 0, res.stdout[-5000:] + res.stderr[-3000:]
    assert all(o in res.stdout for o in SURFACES) and ' 0 findings' in res.stdout

def test_findings_are_found(tmp_path):
    "The harness notices what it is there for"
    code = f'''
import sys
sys.path.insert(0, {str(FUZZ.parent)!r})
import os, pickle, time, fuzz
from quantizer.all import QuantizerError
class Bad:
    def __reduce__(self): return (print, ())
def raises(): raise KeyError('x')
def two_lines(): raise fuzz.QuantizerError('x') from None
def writes(): open('../elsewhere', 'w').close()
def removes(): os.remove(fuzz.OUTSIDE + '/x')
def unpickles(): pickle.loads(pickle.dumps(Bad()))
def allocates(): bytearray(b'x')*(3*2**30)
def says_memory(): raise QuantizerError("you tried to allocate 9 bytes")
def refuses(): raise QuantizerError('a.wav: damaged')
box = fuzz.Sandbox('audio', None)
for f in (raises, writes, removes, unpickles, says_memory, refuses, allocates):
    box.surface.read = lambda rng, refused, f=f: f()
    print(f.__name__, box.run({{'a.wav': b''}}, None)[:2])
box.close()
'''
    out = subprocess.run([sys.executable, '-W', 'ignore', '-c', code], capture_output=True, text=True, cwd=tmp_path)
    said = dict(o.split(' ', 1) for o in out.stdout.splitlines() if o.endswith(')'))
    assert said.pop('refuses') == "('refused', '')", out.stderr
    assert len(said) == 6 and all("'finding'" in o for o in said.values()), out.stdout + out.stderr
