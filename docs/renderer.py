"How exported functions and classes look on the site"
import inspect, re
from types import UnionType
from typing import Annotated, Literal, Union, get_args, get_origin
from fastcore.docments import DocmentTbl
from nbdev.doclinks import NbdevLookup
from nbdev.showdoc import BasicMarkdownRenderer

def type_name(annotation):
    "A type as a reader knows it: the choices of a `Literal`, and no limits, which the checks of an option tell"
    origin,args = get_origin(annotation),get_args(annotation)
    if origin is Annotated: return type_name(args[0])
    if origin is Literal: return ' or '.join(f'`{o}`' for o in args)
    if origin in (Union,UnionType): return ' or '.join(type_name(o) for o in args)
    if origin or annotation is inspect.Parameter.empty: return annotation
    return 'None' if annotation is type(None) else annotation.__name__ if inspect.isclass(annotation) else annotation

class Table(DocmentTbl):
    "Documented parameters, with types as `type_name` writes them"
    def __init__(self, obj):
        super().__init__(obj)
        for row in self.dm.values(): row['anno'] = type_name(row['anno'])

class Renderer(BasicMarkdownRenderer):
    "Heading, signature, docstring, documented parameters, methods, link to the source"
    def _repr_markdown_(self):
        kind,src,tbl = 'class ' if inspect.isclass(self.sym) else '',NbdevLookup()[self.fn],self.table()
        parts = [f'### {getattr(self.sym, "__qualname__", self.nm)}', f'```python\n{kind}{self.nm}{self.signature(not tbl)}\n```', self.docs or '', tbl, self.methods()]
        if src: parts.append(f'<small>[source]({src[2]}#L{inspect.getsourcelines(self.sym)[1]})</small>')
        return '\n\n'.join(filter(None, parts))

    def table(self):
        "Documented parameters; none where Python has no source, as of an `__init__` that is inherited from C"
        try: return str(Table(self.sym))
        except (OSError, TypeError, ValueError): return ''

    def methods(self):
        "The methods in the body of a class, a line each; one added by `@patch` has its own heading"
        if not inspect.isclass(self.sym): return ''
        lines,start = inspect.getsourcelines(self.sym)
        res = []
        for k,v in vars(self.sym).items():
            f = getattr(v, 'fget', None) or getattr(v, '__func__', v)
            if k[0]=='_' or not inspect.isfunction(f) or not f.__doc__ or f.__module__!=self.sym.__module__: continue
            if not start<=f.__code__.co_firstlineno<start+len(lines): continue
            args = '' if isinstance(v, property) else f"({', '.join([*inspect.signature(f).parameters][1:])})"
            res.append(f'- `{k}{args}`: {inspect.cleandoc(f.__doc__)}')
        return '\n'.join(res)

    def signature(self, types=True):
        "Parameters and defaults, with their types where no table tells them, one to a line where long"
        if self.sig is None: return '(...)'
        E = inspect.Parameter.empty
        ps = [p if types else p.replace(annotation=E) for p in self.sig.parameters.values()]
        sig = str(self.sig.replace(parameters=ps, return_annotation=self.sig.return_annotation if types else E))
        if len(self.nm+sig)>100: sig = '(\n    ' + ',\n    '.join(str(p) for p in ps) + ',\n)'
        return re.sub(r"<class '(?:\w+\.)*(\w+)'>", r'\1', sig)  # a class as a default, by its name
