"""Count the code of the package, and of a peer, with one counter: `python tests/count_lines.py [--peer FOLDER [--report FILE]]`

The first table has files, lines of code, tokens and dependencies. A line of code holds something besides a comment or a docstring. Lines differ in length, so tokens are counted too.
Installed packages are counted where this runs, without extras. FOLDER holds the unpacked wheel of WhisperSpeech; its quantizer path is what the modules in ROOTS import. FILE is what
`pip install --dry-run --ignore-installed --report FILE whisperspeech[dev]==0.8.9 torch==2.13.0` writes, with the same build of torch as ours.

The second table, without `--peer`, is about reading: tokens a line, long lines, and the sizes of the notebooks' export cells."""
import argparse, ast, io, json, re, statistics, sys, tokenize
from configparser import ConfigParser
from importlib.metadata import PackageNotFoundError, PathDistribution, distribution
from pathlib import Path
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent
WHISPER = ['models/bottleneck.py', 'models/whisperspeech.py', *(f'whisper/{o}.py' for o in ('text_losses', 'teacher', 'decoding', 'targets', 'objective', 'scorer', 'wer', 'published')), 'train/phases.py', 'evaluate/words.py'] # what Whisper's objective adds
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

def export_cells():
    "The code of each exported cell of the notebooks, without directives"
    for path in sorted((ROOT/'nbs').rglob('*.ipynb')):
        for cell in json.loads(path.read_text(encoding='utf-8'))['cells']:
            lines = ''.join(cell['source']).split('\n')
            if cell['cell_type'] == 'code' and any(o.startswith('#| export') for o in lines[:3]):
                yield [o for o in lines if o.strip() and not o.startswith('#|')]

def code_lines(path):
    "Lines of a file that hold code, without the comments and `__all__` that the exporter writes"
    text = re.sub(r'^__all__ = \[.*?\]', '', path.read_text(encoding='utf-8'), count=1, flags=re.M|re.S)
    return [o for o in text.split('\n') if o.strip() and not o.startswith('# %%')]

def reading_table(files):
    "How the code reads, beside what we aim at"
    _,lines,tokens = total(files)
    nodes = sum(1 for o in files for _ in ast.walk(ast.parse(o.read_text(encoding='utf-8'))))
    widths = [len(o) for f in files for o in code_lines(f)]
    long = sum(o > 120 for o in widths)
    cells = [len(o) for o in export_cells()]
    rows = [('tokens', f'{tokens:,}', '86,000'), ('tokens a line', f'{tokens/lines:.1f}', '10'), ('AST nodes a line', f'{nodes/lines:.1f}', ''),
        ('lines over 120 characters', f'{long:,} ({long/len(widths):.1%})', '1 %'), ('longest line', max(widths), '140'),
        ('export cells', f'{len(cells):,}', ''), ('  median lines', f'{statistics.median(cells):g}', '10'), ('  most lines', max(cells), '45')]
    print('\n| how it reads | now | at most |\n|---|--:|--:|')
    for row in rows: print('| '+' | '.join(map(str, row))+' |')

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
    if not args.peer: reading_table(files)
    if args.peer:
        meta, = args.peer.glob('[Ww]hisper[Ss]peech-*.dist-info')
        path = closure(args.peer/'whisperspeech'/f'{o}.py' for o in ROOTS)
        names = {canonicalize_name(o['metadata']['name']) for o in json.loads(args.report.read_text(encoding='utf-8'))['install']} if args.report else ''
        row(f"**WhisperSpeech's quantizer path**: {', '.join(o.stem for o in path)}", path, len(PathDistribution(meta).requires), names and len(names - {'whisperspeech'}))
    if missing := [o for o in WHISPER if not (lib/o).exists()]: sys.exit(f'not in {lib.name}: {", ".join(missing)}')

if __name__ == '__main__': main()
