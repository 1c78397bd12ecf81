"""From notebooks to pages, without Quarto

`python docs/pages.py build/docs/src` writes the pages of the site as notebooks that Sphinx reads,
`python docs/pages.py README.md` writes README.md from the index notebook."""
import os, re, sys, warnings
from functools import partial
from importlib import import_module
from pathlib import Path

from fastcore.nbio import mk_cell, read_nb, write_nb
from nbdev.config import create_output, get_config, nbpath2html
from nbdev.doclinks import NbdevLookup, nbglob
from nbdev.process import Processor
from nbdev.processors import FilterDefaults, exec_show_docs
from nbdev.showdoc import show_doc
from renderer import Renderer

root = Path(__file__).resolve().parent.parent
nbs,lib = root/'nbs','quantizer'
fence = re.compile(r'(^ *```.*?^ *```)', flags=re.M|re.S)
captions = dict(train='Training', evaluate='Evaluation', app='Command and config', whisper='Through Whisper')  # where a folder's own name does not say it

def anchor(title):
    "The name by which nbdev links to a heading"
    return title.strip().lower().replace(' ', '-')

class from_package(Processor):
    "Fill `show_doc` cells from the exported module, where nbdev would run the notebook's cells"
    def begin(self):
        exps = [c.directives_['default_exp'] for c in self.nb.cells if 'default_exp' in c.directives_]
        self.ns = dict(vars(import_module('.'.join([lib, *exps]))), show_doc=partial(show_doc, renderer=Renderer))

    def cell(self, cell):
        opts,src = split(cell)
        if opts.get('output')=='asis' and src.startswith('show_doc'):
            cell.outputs = create_output(NbdevLookup().linkify(eval(src, self.ns)._repr_markdown_()), 'markdown')

class Filter(FilterDefaults):
    def base_procs(self): return [from_package if o is exec_show_docs else o for o in super().base_procs()]

def processed(path):
    "The notebook at `path` with its exports documented, its symbols linked, and what is hidden removed"
    nb = read_nb(path)
    head = nb.cells.pop(0)  # nbdev would take the whole cell for metadata
    Filter()(nb)
    head.source = NbdevLookup().linkify(head.source)
    nb.cells.insert(0, head)
    nb.cells = [c for c in nb.cells if c.cell_type!='raw' and not c.source.startswith('<!-- WARNING')]
    return nb

def split(cell):
    "The leading `#|` lines of `cell` as a dict, and the code that follows"
    lines,opts = cell.source.splitlines(),{}
    while lines and lines[0].startswith('#|'):
        k,_,v = lines.pop(0)[2:].partition(':')
        opts[k.strip()] = v.strip()
    return opts,'\n'.join(lines)

def relink(text, f):
    "`text` with the target of each Markdown link, other than in code, replaced by what `f` makes of it"
    parts = re.split(fence, text)
    parts[::2] = [re.sub(r'\]\(([^)\s]+)\)', lambda m: f']({f(m[1])})', o) for o in parts[::2]]
    return ''.join(parts)

# ---- Pages

def convert(nb):
    "Cells for Sphinx: documentation joins the text one level below its heading, options become tags"
    cells,level = [],1
    tags = dict(echo='remove-input', include='remove-cell', output='remove-output')
    for c in nb.cells:
        if c.cell_type=='markdown':
            level = ([level] + [len(o) for o,_ in headings(c)])[-1]
            cells.append(c)
            continue
        opts,c.source = split(c)
        if opts.get('output')=='asis':
            for o in c.outputs:
                text = ''.join(o.get('data', {}).get('text/markdown', ''))
                cells.append(mk_cell(re.sub('^###', '#'*(level+1), text), 'markdown'))
        else:
            c.metadata = dict(tags=[tags[k] for k,v in opts.items() if k in tags and v=='false'])
            cells.append(c)
    nb.cells = cells
    return nb

def headings(cell):
    "The headings in a text cell, as marks and title"
    return re.findall(r'^(#+) (.*)', re.sub(fence, '', cell.source), flags=re.M) if cell.cell_type=='markdown' else []

def page(path):
    "Where the notebook at `path` goes in the site"
    return nbpath2html(path.relative_to(nbs)).with_suffix('.ipynb')

def local(url, here, anchors, doc_url):
    "`url` in the notebook `here` as a path in the site, if it leads to one of our symbols or notebooks"
    path,_,sym = url.partition('#')
    if path.startswith(doc_url):
        to = Path(path.removeprefix(doc_url)).with_suffix('.ipynb')
        while sym and sym not in anchors.get(to, ()): sym = sym.rpartition('.')[0]  # a method is told with its class
    elif path.endswith('.ipynb') and '://' not in path: to = page((here.parent/path).resolve())
    else: return url
    return f'/{to.as_posix()}' + (f'#{sym}' if sym else '')

def number(path):
    m = re.match(r'\d+', path.name)
    return int(m[0]) if m else 0

def contents(paths):
    "The navigation: a section for each folder, in the order of the numbers in it, after the tutorials"
    secs = dict(Start=[])
    for o in sorted(paths, key=lambda o: (number(o), o)):
        folder = '' if o.parent==nbs else o.parent.name
        sec = 'Start' if folder in ('', 'tutorials') else captions.get(folder, folder.capitalize())
        if o.name!='index.ipynb': secs.setdefault(sec, []).append(page(o).with_suffix('').as_posix())
    return '\n\n'.join('\n'.join(['```{toctree}', ':hidden:', f':caption: {k}', '', *v, '```']) for k,v in secs.items())

def site(dst):
    "Write every page below `dst`"
    doc_url,paths = get_config(root).doc_url,[Path(o) for o in nbglob(nbs)]
    pages = {o: convert(processed(o)) for o in paths}
    anchors = {page(o): {anchor(t) for c in nb.cells for _,t in headings(c)} for o,nb in pages.items()}
    pages[nbs/'index.ipynb'].cells.append(mk_cell(contents(paths), 'markdown'))
    for o,nb in pages.items():
        for c in nb.cells:
            if c.cell_type=='markdown': c.source = relink(c.source, partial(local, here=o, anchors=anchors, doc_url=doc_url))
        to = dst/page(o)
        to.parent.mkdir(parents=True, exist_ok=True)
        write_nb(nb, to)

# ---- README

def readme():
    "README.md from the index notebook: text, code, and what it printed"
    def f(url): return f'nbs/{url}' if url.endswith('.ipynb') and '://' not in url else url
    res = ['<!-- Made from nbs/index.ipynb by `make readme`: edit there -->']
    for c in processed(nbs/'index.ipynb').cells:
        if c.cell_type=='markdown': res.append(relink(c.source, f))
        else:
            opts,src = split(c)
            if opts.get('echo')!='false': res.append(f'```python\n{src}\n```')
            for o in c.outputs:
                data = o.get('data', {})
                text = ''.join(o.get('text') or ('' if 'text/html' in data or 'image/png' in data else data.get('text/plain', '')))
                if text: res.append(f'```text\n{text.rstrip()}\n```')
    return '\n\n'.join(res) + '\n'

if __name__=='__main__':
    sys.path.insert(0, str(root))
    os.chdir(root)  # where nbdev looks for its settings
    warnings.simplefilter('ignore')  # what imports and missing sources have to say is no news here
    dst = Path(sys.argv[1])
    if dst.suffix=='.md': dst.write_text(readme(), encoding='utf-8')
    else: site(dst)
