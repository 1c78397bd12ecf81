"Draw the rooms of the package, from its imports, into ARCHITECTURE.md: `python docs/architecture.py`"
import ast
from pathlib import Path

ROOT = Path(__file__).parent.parent
LIB = ROOT/'quantizer'
ROOMS = ('core', 'data', 'quantizers', 'models', 'tokens', 'evaluate', 'train', 'whisper', 'app')  # from the ground up
START, END = '<!-- rooms: written by `make architecture` -->\n', '<!-- end of rooms -->'


def modules(room):
    "Names of the modules of a room"
    return sorted(o.stem for o in (LIB/room).glob('*.py') if o.stem != '__init__')


def imported_rooms(room):
    "The other rooms that a room imports"
    found = set()
    for path in (LIB/room).glob('*.py'):
        for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
            if not isinstance(node, ast.ImportFrom) or not node.module:
                continue
            module = node.module.removeprefix('quantizer.')
            if node.level == 2 or module != node.module:  # the exporter leaves an import in a function or over lines absolute
                found.add(module.split('.')[0])
    return [o for o in ROOMS if o in found and o != room]


def purpose(room):
    "The first line of the docstring of a room"
    return ast.get_docstring(ast.parse((LIB/room/'__init__.py').read_text(encoding='utf-8'))).split('\n')[0]


def wrapped(names, width):
    "Names in lines of at most `width` characters"
    lines = ['']
    for o in names:
        if len(lines[-1]) + len(o) + 1 > width:
            lines.append('')
        lines[-1] += f' {o}' if lines[-1] else o
    return lines


def picture():
    "The rooms from the top down: a box for each, with its modules and what it imports"
    width = 96
    lines = ['```']
    for room in reversed(ROOMS):
        imports = ', '.join(imported_rooms(room)) or 'nothing'
        text = [*wrapped(purpose(room).split(), width-16), *wrapped(modules(room), width-16), f'imports {imports}']
        lines.append(f'┌{"─"*width}┐')
        lines += [f'│ {room if i == 0 else "":12} {o:{width-15}} │' for i, o in enumerate(text)]
        lines.append(f'└{"─"*width}┘')
    return '\n'.join([*lines, '```', ''])


def drawn(page):
    "The page with the picture as it is now"
    before, rest = page.split(START)
    return before + START + picture() + END + rest.split(END)[1]


if __name__ == '__main__':
    path = ROOT/'ARCHITECTURE.md'
    path.write_text(drawn(path.read_text(encoding='utf-8')), encoding='utf-8')
