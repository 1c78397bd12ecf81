"Sphinx settings: the site is static and fetches nothing"
from configparser import ConfigParser
from pathlib import Path
import sys

from docutils.nodes import SkipNode
from latex2mathml.converter import convert

sys.path.insert(0, str(Path(__file__).parent))
cp = ConfigParser(delimiters=['=']); cp.read(Path(__file__).parent.parent/'settings.ini', encoding='utf-8')
cfg = cp['DEFAULT']

project,author,release = cfg['lib_name'],cfg['author'],cfg['version']
extensions = ['myst_nb']
nb_execution_mode = 'off'
myst_enable_extensions = ['dollarmath', 'amsmath', 'colon_fence']
myst_heading_anchors = 4
myst_heading_slug_func = 'pages.anchor'
suppress_warnings = ['myst.header']
html_theme = 'furo'
html_title = f'{project} {release}'
html_copy_source = html_show_sourcelink = html_show_copyright = html_use_index = False
html_static_path = ['static']
html_css_files = ['site.css']
html_math_renderer = 'mathml'

def inline(self, node):
    self.body.append(convert(node.astext()))
    raise SkipNode
def block(self, node):
    self.body.append(f'<div class="math">{convert(node.astext(), display="block")}</div>')
    raise SkipNode
def setup(app):
    "Maths as MathML, which browsers draw without a script"
    app.add_html_math_renderer('mathml', (inline, None), (block, None))
