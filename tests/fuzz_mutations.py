"""Damage to files, as fuzz.py does it: to bytes, and to what the bytes mean

An input is a dictionary: name of a file -> its bytes, or a text for what is no ordinary file: `link TARGET`, `fifo` or `folder`."""
import csv
import gzip
import io
import json
import math
import struct
import tarfile
from datetime import date
from decimal import Decimal

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

OUTSIDE = '/tmp/quantizer-fuzz-outside'
PATHS = ['..', '../x', '../../outside/x', f'{OUTSIDE}/x', '/etc/passwd', '/dev/zero', '.', '/', '~', '~/x', '~nobody/x', 'memory://x',
    'file:///etc/passwd', 'nosuch://x', '://', 'zip://a::b', 'a\\b', 'x'*300, 'a.wav/', './a.wav', '%s', '{x}']
TEXTS = ['', ' ', 'a'*5000, 'a\nb', 'a\r\nb', 'a\tb', '\0', 'a\0b', '\x1b[31m', '\u202e', 'é', '\U0001f600', '\ufeff', 'ａ', 'None', 'nan', 'inf', '-inf', 'true', 'null',
    '1e999', '0x10', '1_000', '٣', '-0', '1,5', '"', "'", '""', '\\', '\\x00', '2024-01-01', 'NA', *PATHS]
NUMBERS = [0, 1, -1, 2, 3, 7, 127, 128, 255, 256, 1000, 65535, 65536, 10**6, 10**9, 2**31-1, 2**31, -2**31, 2**32, 2**53, 2**63-1, 2**63, -2**63, 2**64, 10**30, 10**400,
    0.5, 1.5, -0.0, 1e-300, 1e-9, 1e9, 1e308, -1e308, math.nan, math.inf, -math.inf]
OTHERS = [None, True, False, [], {}, [[]], [None], {'': None}, {'name': None}, {'a': {'b': {}}}, [1, 'a', None], [[0]*50]*2]

def value(rng):
    "A value that is probably not expected"
    kind = rng.random()
    if kind < 0.4: return rng.choice(NUMBERS)
    if kind < 0.7: return rng.choice(TEXTS)
    if kind < 0.97: return rng.choice(OTHERS)
    res = rng.choice([[], {}])
    for _ in range(rng.choice([5, 50, 200])): res = rng.choice([lambda o: [o], lambda o: {'a': o}])(res)
    return res

def places(nested, found=None):
    "Each `(container, key)` in nested lists and dictionaries"
    found = [] if found is None else found
    items = nested.items() if isinstance(nested, dict) else enumerate(nested) if isinstance(nested, list) else ()
    for key,inner in items:
        found.append((nested, key))
        places(inner, found)
    return found

def nested_value(rng, root):
    "Change one or two places of nested lists and dictionaries, in place; the new root"
    for _ in range(rng.choice([1, 1, 1, 2, 3])):
        found = places(root)
        if not found or rng.random() < 0.02: return value(rng)
        holder,key = rng.choice(found)
        action = rng.randrange(10)
        if action < 5: holder[key] = value(rng)
        elif action == 5: del holder[key]
        elif action == 6:
            other,name = rng.choice(found)
            if name in (other if isinstance(other, dict) else range(len(other))): holder[key] = json.loads(json.dumps(other[name]))
        elif action == 7 and isinstance(holder, dict):
            name = rng.choice([*TEXTS, str(key).upper(), f' {key}', f'{key}x', str(key)[:-1]])
            holder[name] = holder.pop(key)
        elif action == 8 and isinstance(holder, dict): holder[rng.choice(TEXTS)] = value(rng)
        elif isinstance(holder, list): holder.insert(key, value(rng))
        elif isinstance(holder[key], (int,float)): holder[key] = rng.choice([-holder[key], holder[key]+1, holder[key]*1000, float(holder[key]), str(holder[key]), [holder[key]]])
        else: holder[key] = value(rng)
    return root

TOKENS = [b'\0', b'\xff', b'\xff\xff\xff\xff', b'\0\0\0\0', b'\x7f\xff\xff\xff', b'\x80\0\0\0', b'\n', b'\r', b'"', b'\t', b',', b'{', b'[', b'}', b']', b':', b'../', b'\xef\xbb\xbf', b'\xff\xfe',
    b'\xed\xa0\x80', b'9'*40, b'-', b'1e999', b'NaN', b'Infinity', b'null', b'\\u0000', b'\\ud800', b'['*100_000, b'{"a":'*20_000]

def some_bytes(rng, data, other=b''):
    "Flip, cut, splice or insert"
    b = bytearray(data)
    for _ in range(rng.choice([1, 1, 1, 2, 4])):
        n = len(b)
        at = rng.randrange(n+1)
        if rng.random() < 0.5: at = min(at, rng.randrange(80)) # headers
        action = rng.randrange(12)
        if action < 2 and at < n: b[at] ^= 1<<rng.randrange(8)
        elif action < 4 and at < n: b[at] = rng.choice([0, 255, 127, 128, rng.randrange(256)])
        elif action < 7:
            size = rng.choice([1, 2, 4, 4, 8])
            b[at:at+size] = (rng.choice([0, 1, -1, 2**31-1, 2**31, 2**62, 2**63-1, n, n-1, n+1, 2*n, rng.randrange(2**32)]) % 256**size).to_bytes(size, rng.choice(['little','big']))
        elif action == 7: del b[at:]
        elif action == 8: del b[at:at+rng.choice([1, 4, 16, 200])]
        elif action == 9: b[at:at] = b[at:at+rng.choice([1, 4, 16, 200])]*rng.choice([1, 3])
        elif action == 10: b[at:] = other[rng.randrange(len(other)+1):]
        else: b[at:at] = rng.choice(TOKENS)
    return bytes(b)

def json_text(rng, root):
    text = json.dumps(root)
    kind = rng.random()
    if kind < 0.04 and ': ' in text: # the first key twice
        first = text.index('"')
        text = text[:first] + text[first:text.index(': ')] + f': {json.dumps(value(rng))}, ' + text[first:]
    if kind > 0.97: text = text.replace('\\u0000', '\\ud800')
    return text.encode()

def json_file(rng, data):
    return json_text(rng, nested_value(rng, json.loads(data)))

def json_lines(rng, data):
    lines = data.splitlines()
    i = rng.randrange(len(lines))
    lines[i] = rng.choice([json_file(rng, lines[i]), lines[i], b'', lines[rng.randrange(len(lines))]])
    return b'\n'.join(lines)

def gzip_file(rng, data):
    "Lines in a compressed file, now and then one that fills the memory"
    if len(data) > 2**20: return data # such a one, damaged before
    if rng.random() < 0.02: return data+gzip.compress(b'x'*2**24)*200
    return gzip.compress(json_lines(rng, gzip.decompress(data)), mtime=0)

def bomb(depth=30):
    "YAML whose aliases unpack to 2^30 values"
    return '\n'.join(['a0: &a0 [x, x]', *(f'a{i}: &a{i} [*a{i-1}, *a{i-1}]' for i in range(1, depth))])

YAML_VALUES = ['!!python/object/apply:os.system [touch /tmp/quantizer-fuzz-outside]', '!!binary aGk=', '!!set {a}', '!!omap [a: 1]', '!!int x', '!!float x', '!!timestamp x', '!x y', '0o17', '0x1f', '1:30', '190:20:30',
    '2001-01-01', '2001-99-99', '.inf', '-.inf', '.nan', '1e3', '1.e+3', '&a [*a]', '&a {k: *a}', '*missing', '<<: {a: 1}', '? [a]', '{[a]: b}', '{{}: b}', '{1: a}', '{null: a}', '{true: a}', '~', 'y', 'no', '=', '|\n  a',
    '[', '{', '"', "'", '@', '`', '%', '\t', '['*300, '{a: '*300, '- '*300, '9'*5000, '"\\ud800"', '"\\0"', '2001-01-01 00:00:00 +99:99']

def yaml_file(rng, data):
    if rng.random() < 0.6 and b'&a' not in data: # not one that unpacks to billions of values
        root = nested_value(rng, yaml.safe_load(data))
        return json_text(rng, root) if rng.random() < 0.7 else yaml.safe_dump(root, allow_unicode=rng.random() < 0.5).encode()
    text = data.decode()
    lines = text.splitlines()
    i = rng.randrange(len(lines)+1)
    action = rng.randrange(4)
    if action == 0: lines.insert(i, rng.choice([*YAML_VALUES, '---', '...', '%YAML 9.9', bomb(), f'train: {{x: [{bomb()}]}}']))
    elif action == 1: text = text.replace(rng.choice([o for o in text.replace(',', ' ').replace('}', ' ').split() if o[-1] not in ':{']), rng.choice(YAML_VALUES), 1)
    elif action == 2 and i < len(lines): lines[i] = bomb() + '\n' + lines[i].replace('}', ', x: *a29}')
    else: lines.insert(i, rng.choice(lines))
    return (text if action == 1 else '\n'.join(lines)).encode('utf-8', 'surrogatepass')

def changes_file(rng, data):
    "Changes of a config, one a line"
    keys = ['seed', 'data.corpus', 'data.augment', 'data.extract.workers', 'features.name', 'features', 'model', 'model.quantizer.name', 'model.quantizer', 'model.encoder.name', 'model.losses.mse',
        'model.decoder.width', 'train.lr', 'train.schedule', 'train.phases', 'train.anneal', 'train', 'a.b.c.d', '', '.', 'a..b', '=', 'model.quantizer.quantizer', 'train.init_from', 'plugins', 'train.loggers']
    values = [*YAML_VALUES, *map(repr, NUMBERS[:-3]), *(o for o in TEXTS if '\n' not in o), 'fsq', 'vq', 'residual', 'grouped', 'gumbel', 'logmel', 'transformer', '{name: fsq}', '[1, 2]', '{a: {b: c}}']
    return '\n'.join(f"{rng.choice(keys)}{rng.choice(['=']*9+[''])}{rng.choice(values)}" for _ in range(rng.choice([1, 1, 2]))).encode('utf-8', 'surrogatepass')

def table_file(rng, data, sep):
    "A manifest as text"
    rows = [o.split(sep) for o in data.decode().splitlines()]
    for _ in range(rng.choice([1, 1, 2])):
        row = rng.choice(rows)
        j = rng.randrange(len(row))
        action = rng.randrange(9)
        if action < 4: row[j] = rng.choice([*TEXTS, *map(str, NUMBERS)])
        elif action == 4: rows[0][rng.randrange(len(rows[0]))] = rng.choice([*TEXTS, 'Path', ' text', 'Text', 'path', 'spekaer', 'duration', 'start_s', 'split'])
        elif action == 5: row.insert(j, row[j])
        elif action == 6 and len(row) > 1: del row[j]
        elif action == 7: row[j] = f'"{row[j]}"' if rng.random() < 0.5 else f'"{row[j]}'
        elif len(rows) > 1: rows.insert(rng.randrange(len(rows)), list(row))
    end = rng.choice(['\n', '\n', '\r\n', '\r'])
    text = end.join(sep.join(o) for o in rows) + rng.choice([end, ''])
    if rng.random() < 0.05: return text.encode(rng.choice(['utf-8-sig','utf-16','latin-1','utf-32','cp037']), 'replace')
    return text.encode('utf-8', 'surrogatepass')

def csv_file(rng, data):
    "A manifest as a program would write it"
    rows = [*csv.reader(io.StringIO(data.decode()))]
    row = rng.choice(rows)
    row[rng.randrange(len(row))] = rng.choice(TEXTS)
    out = io.StringIO()
    csv.writer(out, quoting=rng.choice([csv.QUOTE_ALL, csv.QUOTE_MINIMAL])).writerows(rows)
    return out.getvalue().encode('utf-8', 'surrogatepass')

def column(rng, n):
    "`n` values of one type"
    make = rng.choice([
        lambda: pa.array([rng.choice([0, -1, 2**31, 2**62, 5])]*n, pa.int64()), lambda: pa.array([2**64-1]*n, pa.uint64()), lambda: pa.array([rng.choice([0., -1., math.nan, math.inf, 1e300])]*n, pa.float64()),
        lambda: pa.nulls(n), lambda: pa.array([True]*n), lambda: pa.array([b'\xff\0']*n, pa.binary()), lambda: pa.array([rng.choice([o for o in TEXTS])]*n, pa.large_string()),
        lambda: pa.array([date(1, 1, 1)]*n), lambda: pa.array([2**62]*n, pa.timestamp('us')), lambda: pa.array([2**62]*n, pa.duration('s')), lambda: pa.array([[1, None]]*n), lambda: pa.array([{'a': 1}]*n),
        lambda: pa.array([Decimal('1.5')]*n), lambda: pa.array(['a']*n).dictionary_encode(), lambda: pa.array([None, *['a']*(n-1)][:n], pa.string()), lambda: pa.array([{'bytes': b'RIFF', 'path': None}]*n),
        lambda: pa.array([[[1]]]*n), lambda: pa.array([2.0]*n, pa.float16()), lambda: pa.array([10**9]*n, pa.time64('us')), lambda: pa.array([-1]*n, pa.int8())])
    return make()

def parquet_file(rng, data):
    table = pq.read_table(io.BytesIO(data))
    for _ in range(rng.choice([1, 1, 2])):
        if not table.num_columns: break
        i,n = rng.randrange(table.num_columns),table.num_rows
        name,action = table.column_names[i],rng.randrange(9)
        if action < 3: table = table.set_column(i, name, column(rng, n))
        elif action == 3: table = table.remove_column(i)
        elif action == 4: table = table.rename_columns([rng.choice([*TEXTS, 'path', 'split', 'text']) if k == i else o for k,o in enumerate(table.column_names)])
        elif action == 5: table = table.append_column(rng.choice([name, *TEXTS]), column(rng, n))
        elif action == 6: table = table.slice(0, rng.randrange(n+1))
        elif action == 7: table = pa.concat_tables([table, table.slice(0, 1)])
        else:
            values = table.column(i).to_pylist()
            if values: values[rng.randrange(n)] = rng.choice([None, *{*map(type, values)}-{type(None)}]) and rng.choice([*NUMBERS, *TEXTS])
            try: table = table.set_column(i, name, pa.array(values, table.column(i).type))
            except (pa.ArrowException, TypeError, ValueError, OverflowError): continue
    if rng.random() < 0.3: table = table.replace_schema_metadata(rng.choice([None, {b'pandas': b'{'}, {b'pandas': b'{"index_columns": ["path"], "columns": []}'}, {b'pandas': b'[]'}, {b'huggingface': b'{'}]))
    out = io.BytesIO()
    pq.write_table(table, out, compression=rng.choice(['snappy', 'none', 'zstd']))
    return out.getvalue()

def safetensors_file(rng, data):
    "The header of a safetensors file, with its length set right"
    n = int.from_bytes(data[:8], 'little')
    header = json.loads(data[8:8+n])
    if rng.random() < 0.5:
        name = rng.choice([o for o in header if o != '__metadata__'] or ['x'])
        entry,action = header.setdefault(name, {}),rng.randrange(7)
        if action == 0: entry['dtype'] = rng.choice(['F64','F32','F16','BF16','I64','I32','I16','I8','U8','BOOL','F8_E4M3','C64','U64','x'])
        elif action == 1: entry['shape'] = rng.choice([[], [0], [1], [0, 2**40], [2**31], [2**63], [-1], [2, 3, 4], [1]*200, ['1'], [2**32, 2**32]])
        elif action == 2: entry['data_offsets'] = rng.choice([[0, 0], [0, 2**40], [4, 0], [-1, 1], [2**63, 2**64], [0]])
        elif action == 3: header[rng.choice([*TEXTS, f'{name}x', 'callbacks', 'model.x'])] = header.pop(name)
        elif action == 4: header['__metadata__'] = rng.choice([{}, {'fingerprint': ''}, {'fingerprint': 'x'}, {'a': 1}, None, 'x'])
        elif action == 5: del header[name]
        else:
            entry['shape'] = list(reversed(entry.get('shape', [])))
    else: header = nested_value(rng, header)
    text = json_text(rng, header)
    return struct.pack('<Q', rng.choice([len(text)]*9+[len(text)+1])) + text + data[8+n:]

def safetensors_values(rng, data):
    "Other values in place of the tensors"
    n = 8+int.from_bytes(data[:8], 'little')
    pattern = rng.choice([b'\xff', b'\0', b'\x7f', b'\0\0\xc0\x7f', b'\0\0\x80\x7f', b'\x01', b'\0\0\0\x80', b'\xff\xff\x7f\x7f', b'\x10\x27'])
    body,start = bytearray(data[n:]),rng.randrange(max(1, len(data)-n))
    stop = rng.choice([start+len(pattern), len(body)])
    body[start:stop] = (pattern*(len(body)//len(pattern)+1))[:len(body[start:stop])]
    return data[:n] + bytes(body)

def checksum(header):
    header[148:156] = b' '*8
    header[148:156] = f'{sum(header):06o}\0 '.encode()

def tar_file(rng, data):
    "Headers of a tar with their checksums set right, or more members"
    b = bytearray(data)
    heads = [i for i in range(0, len(b)-511, 512) if b[i+257:i+262] == b'ustar']
    if rng.random() < 0.6 and heads:
        head = bytearray(b[(at := rng.choice(heads)):at+512])
        field = rng.choice([(0, 100), (100, 108), (124, 136), (136, 148), (156, 157), (157, 257), (257, 265), (345, 500)])
        size = field[1]-field[0]
        new = rng.choice([b'\xff'*size, b'\0'*size, b'7'*size, b'\x80'+b'\xff'*(size-1), b'../'*(size//3+1), b'/etc/passwd', b'-1', rng.randbytes(size), rng.choice(b'0123456789gxLKSVMNA').to_bytes()])[:size]
        head[field[0]:field[1]] = new.ljust(size, b'\0')
        checksum(head)
        b[at:at+512] = head
        return bytes(b)
    out = io.BytesIO(data)
    with tarfile.open(fileobj=out, mode='a', format=rng.choice([tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])) as t:
        m = tarfile.TarInfo(rng.choice([o for o in TEXTS if o and '\0' not in o])+rng.choice(['', '.wav', '.json', '.txt']))
        content = rng.choice([b'', b'{}', b'[]', b'null', b'{"text": 1, "path": "x"}', b'{"text": [1], "speaker": {"a": 1}}', b'{"split": "x"}', b'\xff', b'['*100_000, b'{"start_s": "x", "duration_s": 9}'])
        m.size = len(content)
        m.pax_headers = rng.choice([{}, {'size': '-1'}, {'size': '9'*20}, {'path': 'x\0y'}, {'GNU.sparse.major': '1', 'GNU.sparse.minor': '0'}, {'hdrcharset': 'BINARY'}])
        t.addfile(m, io.BytesIO(content))
    return out.getvalue()

GRAMMAR = {'.json': [json_file], '.jsonl': [json_lines], '.gz': [gzip_file], '.yaml': [yaml_file], '.txt': [changes_file], '.tsv': [lambda rng, data: table_file(rng, data, '\t')],
    '.csv': [lambda rng, data: table_file(rng, data, ','), csv_file], '.parquet': [parquet_file], '.safetensors': [safetensors_file, safetensors_values], '.tar': [tar_file]}
SPECIAL = ['link missing', 'link .', 'link /dev/zero', 'link /etc/passwd', f'link {OUTSIDE}/x', 'link ..', 'fifo', 'folder']

def damage(rng, files, targets):
    "Another input, with one of the files `targets` damaged"
    res = dict(files)
    for _ in range(rng.choice([1, 1, 1, 1, 2])):
        name = rng.choice(targets)
        data,kind = res.get(name),rng.random()
        if kind < 0.004: res[name] = rng.choice([*SPECIAL, f'link {name.rpartition("/")[2]}'])
        elif kind < 0.008: res.pop(name, None)
        elif isinstance(data, bytes):
            grammar = GRAMMAR.get(name[name.rfind('.'):])
            if grammar and kind < 0.75:
                try: res[name] = rng.choice(grammar)(rng, data)
                except Exception: pass # damaged before
                if res[name] is not data: continue
            others = [o for o in files.values() if isinstance(o, bytes)]
            res[name] = some_bytes(rng, data, rng.choice(others))
    return res
