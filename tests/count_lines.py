"""Lines of code, ours and a peer's, by one counter: `python tests/count_lines.py [--peer FOLDER [--report FILE]]` prints a table in Markdown

A line of code holds something besides a comment or a docstring; as lines differ in length, tokens are counted too. What an installation brings in is counted where this
runs, without extras. FOLDER holds WhisperSpeech's wheel, unpacked; its quantizer path is what the modules in ROOTS import, and FILE what `pip install --dry-run --ignore-installed --report FILE
whisperspeech[dev]==0.8.9 torch==2.13.0` writes: the same build of torch as ours, as another one brings packages of its own."""
import argparse, ast, io, json, sys, tokenize
from configparser import ConfigParser
from importlib.metadata import PackageNotFoundError, PathDistribution, distribution
from pathlib import Path
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent
WHISPER = ['models/bottleneck.py', 'models/whisperspeech.py', *(f'whisper/{o}.py' for o in ('text_losses', 'teacher', 'targets', 'objective', 'scorer', 'wer', 'published')), 'train/phases.py', 'evaluate/words.py'] # what Whisper's objective adds
ROOTS = ['wh_transcribe', 'vq_stoks', 'train_multi', 'extract_stoks'] # the peer's commands: transcripts, the model and its data, training, tokens of a corpus
IDLE = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}

def count(src):
    "Lines of code, and tokens"
    nodes = [o.body[0] for o in ast.walk(ast.parse(src)) if isinstance(o, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)) and ast.get_docstring(o) is not None]
    docs = [((o.lineno, o.col_offset), (o.end_lineno, o.end_col_offset)) for o in nodes]
    text,lines,n = src.split('\n'),set(),0
    for t in tokenize.generate_tokens(io.StringIO(src).readline):
        at = t.start[0],len(t.line[:t.start[1]].encode()) # in bytes, as in `docs`
        if t.type in IDLE or t.type==tokenize.STRING and any(a<=at<b for a,b in docs): continue
        n += 1
        lines.update(i for i in range(t.start[0], t.end[0]+1) if text[i-1].strip())
    return len(lines),n

def total(files):
    "Number of files, lines of code, tokens"
    counts = [count(o.read_text(encoding='utf-8')) for o in files]
    return len(counts),sum(l for l,_ in counts),sum(n for _,n in counts)

def installed(reqs):
    "Names of all packages that requirements `reqs` bring in here, with the extras that they ask for"
    seen,todo = {},[Requirement(o) for o in reqs]
    while todo:
        r = todo.pop()
        name = canonicalize_name(r.name)
        if name in seen and r.extras<=seen[name]: continue
        extras = seen[name] = seen.get(name, set())|r.extras
        deps = [Requirement(o) for o in distribution(name).requires or []]
        todo += [d for d in deps if not d.marker or any(d.marker.evaluate(dict(extra=e)) for e in ('', *extras))]
    return set(seen)

def imports(path):
    "Modules of its own package that the file at `path` imports"
    for o in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
        if isinstance(o, ast.Import): names = [a.name for a in o.names]
        elif isinstance(o, ast.ImportFrom):
            base = '.'.join(filter(None, [path.parent.name if o.level else '', o.module]))
            names = [base, *(f'{base}.{a.name}' for a in o.names)]
        else: continue
        yield from (q for n in names if n.startswith(path.parent.name+'.') and (q := path.parent/f"{n.split('.')[1]}.py").exists())

def closure(paths):
    seen,todo = set(),list(paths)
    while todo:
        if (p := todo.pop()) not in seen: seen.add(p); todo += imports(p)
    return sorted(seen)

def row(name, files, declared='', brought=''):
    n,lines,tokens = total(files)
    print(f'| {name} | {n} | {lines:,} | {tokens:,} | {declared} | {brought} |')

def main():
    p = argparse.ArgumentParser()
    p.add_argument('--peer', type=Path)
    p.add_argument('--report', type=Path)
    args = p.parse_args()
    cp = ConfigParser(delimiters=['=']); cp.read(ROOT/'settings.ini', encoding='utf-8')
    cfg = cp['DEFAULT']
    lib,reqs = ROOT/cfg['lib_path'],cfg['requirements'].split()
    files = sorted(o for o in lib.rglob('*.py') if o.name not in ('_modidx.py', '__init__.py'))
    try: brought = len(installed(reqs))
    except PackageNotFoundError as e: sys.exit(f'{e.name} is required, and not installed here')
    print('| | files | lines of code | tokens | declared dependencies | installed packages |\n|---|--:|--:|--:|--:|--:|')
    row(f'**{lib.name}**', files, len(reqs), brought)
    row(f'{lib.name}/*.py', [o for o in files if o.parent==lib])
    for d in sorted({o.parent for o in files} - {lib}): row(d.relative_to(ROOT).as_posix(), [o for o in files if o.parent==d])
    row("what Whisper's objective adds", [lib/o for o in WHISPER if (lib/o).exists()])
    if args.peer:
        meta, = args.peer.glob('[Ww]hisper[Ss]peech-*.dist-info')
        path = closure(args.peer/'whisperspeech'/f'{o}.py' for o in ROOTS)
        names = {canonicalize_name(o['metadata']['name']) for o in json.loads(args.report.read_text(encoding='utf-8'))['install']} if args.report else ''
        row(f"**WhisperSpeech's quantizer path**: {', '.join(o.stem for o in path)}", path, len(PathDistribution(meta).requires), names and len(names - {'whisperspeech'}))
    if missing := [o for o in WHISPER if not (lib/o).exists()]: sys.exit(f'not in {lib.name}: {", ".join(missing)}')

if __name__ == '__main__': main()
