"The live page of a run, over HTTP and in a browser"
import http.client, json, os, re, shutil, signal, subprocess, sys, time
from concurrent.futures import ThreadPoolExecutor
from html.parser import HTMLParser

import matplotlib.pyplot as plt, numpy as np, pandas as pd, pytest
from quantizer.app import watch
from quantizer.app.cli import main
from quantizer.app.watch import GrowingCSV, serve, watch_data

VERDICT = 'skewed: 91 % of 128 codes in use, perplexity 19 & <b>falling</b>'
BAD = '<img src=x onerror=alert(1)>'
CHROMIUM = next(filter(None, map(shutil.which, ('chromium','chromium-browser','google-chrome'))), None)

def make_run(run, rows=200, epochs=8, books=2):
    "A run of 1,000 steps that has come to `rows*2`"
    run.mkdir()
    (run/'config.yaml').write_text('features: {name: logmel}\nmodel: {quantizer: {name: residual, codebook_size: 64}}\ntrain: {epochs: 20}\n')
    step,e = np.arange(1, rows+1)*2,np.arange(epochs)
    pd.DataFrame(dict(step=step, progress=step/1000, epoch=step//50, lr=1e-3, loss=1/step, mse=0.5/step, skipped=0, usage=0.9, perplexity=30, step_s=0.25, data_wait=0.1, frames_per_s=4321.,
        memory_mb=987., time_s=0.5*step)).to_csv(run/'steps.csv', index=False)
    log = dict(epoch=e, step=50*(e+1), train_loss=1/(e+1), valid_loss=2/(e+1), nre=0.5/(e+1), usage=0.9, perplexity=30) | {'other/loss':3/(e+1), 'other/nre':0.6/(e+1), 'mean/loss':1.0} | {f'{k}_{q+1}':v/(q+1) for q in range(books) for k,v in (('usage',0.9),('perplexity',40))}
    pd.DataFrame(log | dict(time_s=25*(e+1), verdict=VERDICT)).to_csv(run/'log.csv', index=False)
    (run/'codes.json').write_text(json.dumps(dict(step=400, epoch=7, sizes=[64]*books, counts=[[*range(64)]]*books)))
    (run/'events.csv').write_text(f'time,step,kind,text\n2024-05-01T10:00:00,0,started,from the beginning\n2024-05-01T10:01:00,100,collapse,perplexity is 2 {BAD}\n')
    return run

@pytest.fixture
def server(tmp_path):
    s = serve(make_run(tmp_path/'a run'), 0)
    yield s
    s.shutdown()

def ask(server, path, method='GET', **headers):
    "Status and body, with the path sent as it is written"
    c = http.client.HTTPConnection('127.0.0.1', server.server_port, timeout=30)
    c.request(method, path, headers=headers)
    r = c.getresponse()
    return r.status,r.read().decode(),r.headers

def test_data(server):
    code,text,head = ask(server, '/data.json')
    d = json.loads(text)
    assert code == 200 and head['Content-Type'].startswith('application/json') and head['Cache-Control'] == 'no-store' and 'Access-Control-Allow-Origin' not in head
    assert (d['name'], d['made_of'], d['state'], d['epochs'], d['verdict']) == ('a run', 'logmel + residual', 'training', 20, VERDICT)
    assert d['eta_s'] == 300 and d['last']['step'] == 400 and len(d['steps']['loss']) == 200 and d['log']['usage_2'] == [0.45]*8
    assert [(o['size'], o['unused'], len(o['y'])) for o in d['codes']['books']] == [(64, 1, 64)]*2 and d['codes']['books'][0]['y'][0] == pytest.approx(2, abs=1e-3)

def test_only_what_is_meant(server):
    "Other paths, methods and hosts are refused, whatever way they are written; nothing listens outside this machine"
    assert server.server_address[0] == '127.0.0.1'
    (server.run.parent/'secret.txt').write_text('secret')
    for o in ('/../secret.txt', '/%2e%2e/secret.txt', '/..%2fsecret.txt', '//secret.txt', '/etc/passwd', '/config.yaml', '/steps.csv', '/data.json/../config.yaml', '/report.html', '\\..\\secret.txt'):
        code,text,_ = ask(server, o)
        assert code == 404 and 'secret' not in text.replace('secret.txt', '') and 'features:' not in text, o
    for o in ('POST','PUT','DELETE','OPTIONS','HEAD','TRACE'): assert ask(server, '/data.json', o)[0] == 501
    for o in ('evil.example', 'evil.example:80', 'localhost.evil.example', '127.0.0.1.evil.example', '127.0.0.1@evil.example', '', '0.0.0.0', f'evil.example#localhost:{server.server_port}'):
        for path in ('/','/data.json','/report.html'): assert ask(server, path, Host=o)[0] == 403, o
    for o in ('localhost', 'LOCALHOST:1', f'127.0.0.1:{server.server_port}'): assert ask(server, '/data.json', Host=o)[0] == 200

def test_text_is_escaped(tmp_path):
    "The name of a run is the only text that comes into the HTML"
    s = serve(make_run(tmp_path/'<script>x'), 0)
    page,policy = ask(s, '/')[1],ask(s, '/')[2]['Content-Security-Policy']
    s.shutdown()
    assert '<script>x' not in page and page.count('&lt;script&gt;x') == 2 and "default-src 'none'" in policy

def test_shutdown_frees_the_port(server):
    s = serve(server.run, 0)
    s.shutdown()
    with pytest.raises(OSError): ask(s, '/')
    serve(server.run, s.server_port).shutdown()

def test_report(server):
    (server.run/'report.html').write_text('<p>the report</p>')
    assert ask(server, '/report.html')[:2] == (200, '<p>the report</p>') and json.loads(ask(server, '/data.json')[1])['state'] == 'finished'

def test_run_that_goes(server):
    "A folder that is removed ends in one line, and the server lives on"
    ask(server, '/data.json')
    server.run.rename(server.run.with_name('moved'))
    code,text,_ = ask(server, '/data.json')
    assert code == 404 and 'a run: not the folder of a run' in text
    server.run.with_name('moved').rename(server.run)
    assert ask(server, '/data.json')[0] == 200

@pytest.mark.parametrize('cut', range(1, 40, 3))
def test_half_written(tmp_path, cut):
    "Rows that come in two pieces, wherever they are cut, are read once"
    run,cache = make_run(tmp_path/'run'),{}
    watch_data(run, cache)
    row = '402,0.402,8,0.001,0.5,0.25,0,0.9,30,0.25,0.1,4321.0,987.0,201.0\n'
    for o in (row[:cut], row[cut:]):
        assert watch_data(run, cache)['last']['step'] == 400
        with open(run/'steps.csv', 'a') as f: f.write(o)
    d = watch_data(run, cache)
    assert d['last']['step'] == 402 and d['steps']['loss'][-1] == 0.5 and len(d['steps']['loss']) == 201

@pytest.mark.parametrize('name', ('steps.csv','log.csv','events.csv','codes.json'))
@pytest.mark.parametrize('left', (0, 0.3, 0.9))
def test_missing_and_cut(tmp_path, name, left):
    run = make_run(tmp_path/'run')
    data = (run/name).read_bytes()
    (run/name).write_bytes(data[:int(len(data)*left)])
    json.dumps(watch_data(run), allow_nan=False)
    (run/name).unlink()
    json.dumps(watch_data(run), allow_nan=False)

def test_many_at_once(server, monkeypatch):
    "Several pages of one run, while it grows: one looks at a time, for they share what is kept"
    busy,most = [],[]
    def _data(*args):
        busy.append(1); most.append(len(busy))
        time.sleep(0.005)
        try: return watch_data(*args)
        finally: busy.pop()
    monkeypatch.setattr(watch, 'watch_data', _data)
    def _grow():
        for i in range(50):
            with open(server.run/'steps.csv', 'a') as f: f.write(f'{402+2*i},0.5,8,0.001,0.5,0.25,0,0.9,30,0.25,0.1,1,1,{201+i}\n')
    with ThreadPoolExecutor(8) as pool:
        grown = pool.submit(_grow)
        assert {o[0] for o in pool.map(lambda _: ask(server, '/data.json'), range(40))} == {200}
        grown.result()
    assert max(most) == 1
    assert len(json.loads(ask(server, '/data.json')[1])['steps']['loss']) == 250

def test_million_rows(tmp_path):
    "The first look reads them all, later ones what is new; the answer stays small and the means are those of all rows"
    run,cache = make_run(tmp_path/'run'),{}
    with open(run/'steps.csv', 'w') as f:
        f.write('step,progress,epoch,lr,loss,time_s\n')
        f.writelines(f'{i},{i/2e6},0,0.001,{i%7},{i/10}\n' for i in range(10, 10_000_010, 10))
    began = time.perf_counter()
    d = watch_data(run, cache)
    first = time.perf_counter()-began
    assert len(d['steps']['loss']) <= 600 and len(json.dumps(d)) < 60_000 and cache['steps'].rows == 1_000_000
    assert np.mean(d['steps']['loss']) == pytest.approx(3, abs=0.01) and d['steps']['step'][0] == pytest.approx(10*(cache['steps'].every+1)/2)
    read = []
    cache['steps'].add_lines = lambda lines: (read.append(len(lines)), GrowingCSV.add_lines(cache['steps'], lines))
    began = time.perf_counter()
    for i in range(20):
        with open(run/'steps.csv', 'a') as f: f.write(f'{10_000_010+10*i},0.6,0,0.001,1,1000000\n')
        assert watch_data(run, cache)['last']['step'] == 10_000_010+10*i
    assert max(read) < 100 and len(read) == 20 and (time.perf_counter()-began)/20 < first/4

def test_command(tmp_path):
    "Prints the address, serves, and ends with Ctrl-C and code 130"
    p = subprocess.Popen([sys.executable, '-m', 'quantizer', 'watch', make_run(tmp_path/'run'), '--port', '0'], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    port = int(re.search(r'http://127\.0\.0\.1:(\d+)/', p.stdout.readline())[1])
    c = http.client.HTTPConnection('localhost', port, timeout=30)
    c.request('GET', '/data.json')
    assert json.loads(c.getresponse().read())['name'] == 'run'
    p.send_signal(signal.SIGINT)
    out,err = p.communicate(timeout=30)
    assert (p.returncode, err) == (130, 'quantizer: interrupted\n')

def test_mistakes(capsys, server, tmp_path):
    for args,said in (([tmp_path], 'not the folder of a run'), ([tmp_path/'gone'], 'not the folder of a run'), ([server.run,'--port',server.server_port], f'port {server.server_port} cannot be used'),
        ([server.run,'--port','65536'], '--port is 65536'), ([server.run,'--port','x'], "invalid int value: 'x'")):
        assert main(['watch', *map(str, args)]) == 1
        err = capsys.readouterr().err
        assert said in err and err.count('\n') == 1, err

class Page(HTMLParser):
    "Texts, and the attributes of elements, by the ids of those that hold them"
    def __init__(self, text):
        super().__init__()
        self.open,self.text,self.found = [],{},[]
        self.feed(text)
    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs), [i for _,i in self.open if i]))
        if tag not in ('meta','link','input','img'): self.open.append((tag, dict(attrs).get('id')))
    def handle_endtag(self, tag):
        while self.open and self.open.pop()[0] != tag: pass
    def handle_data(self, data):
        if not any(t in ('script','style') for t,_ in self.open):
            for _,i in self.open: self.text[i] = self.text.get(i, '')+data
    def curves(self, id):
        "Points of each curve that uPlot was given for the chart `id`, as its legend says"
        return [int(a['data-points']) for t,a,ids in self.found if id in ids and 'data-points' in a]
    def attrs(self, id): return next(a for _,a,_ in self.found if a.get('id') == id)

def chromium(url, tmp_path, ms, *args):
    "Have Chromium load a page, for `ms` of the page's own time"
    args = [*args, '--headless', '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking', '--disable-component-update', '--disable-sync', '--window-size=1200,1400']
    return subprocess.run([CHROMIUM, *args, f'--virtual-time-budget={ms}', f'--user-data-dir={tmp_path/"profile"}', url], capture_output=True, text=True, timeout=180)

def load(url, tmp_path, ms):
    "The page after `ms` of its own time"
    res = chromium(url, tmp_path, ms, '--dump-dom')
    assert '</html>' in res.stdout, res.stderr
    return Page(res.stdout)

needs_chromium = pytest.mark.skipif(not CHROMIUM, reason='Chromium is not installed')

@needs_chromium
def test_page(server, tmp_path):
    "Everything is on the page, as text or as curves with as many points as there are rows"
    p = load(server.url, tmp_path, 1500)
    assert p.text['name'] == 'a run' and p.text['made_of'] == 'logmel + residual' and p.text['state'] == 'training'
    assert p.text['at'] == '40 % · step 400 · 8.0 of 20 epochs · 3 min of training · about 5 min left'
    assert p.text['verdict'] == 'Codebook: '+VERDICT and p.attrs('verdict')['class'] == 'warn'
    assert [p.curves(o) for o in ('loss','nre','lr','usage','perplexity','codes')] == [[200,8,8,8], [8,8], [200], [200,8,8], [200,8,8], [64,64]]
    assert 'train 0.125' in p.text['loss'] and 'other 0.375' in p.text['loss'] and 'mean' not in p.text['loss'] and 'codebook 2 45 %' in p.text['usage'] and 'equal use' in p.text['codes'] and 'codebook 2 (1 unused)' in p.text['codes']
    for k,v in dict(step_s='250 ms', data_wait='10 %', frames_per_s='4,321', memory_mb='987 MB', skipped='0').items(): assert p.text[f'fig-{k}'].endswith(v)
    assert BAD in p.text['events'] and not [t for t,_,_ in p.found if t == 'img'] # as text
    assert [a.get('class') for t,a,_ in p.found if t == 'li'] == ['collapse', '']
    assert 'hidden' in p.attrs('gone') and 'hidden' in p.attrs('report')

@needs_chromium
def test_curves_are_drawn(server, tmp_path):
    "The canvases have the colours of the curves; legends and bars have fewer such pixels"
    res = chromium(server.url, tmp_path, 1500, f'--screenshot={tmp_path/"page.png"}')
    assert (tmp_path/'page.png').exists(), res.stderr
    pixels = (plt.imread(tmp_path/'page.png')[420:,:,:3]*255).round()
    near = {name:int((np.abs(pixels-rgb).max(-1) < 40).sum()) for name,rgb in dict(c0=(0,104,181), c1=(200,80,10), steps=(154,164,181)).items()}
    assert min(near.values()) > 500, near

def test_policy(server):
    "The page has no inline script or style, and the policy allows none"
    page,head = ask(server, '/')[1],ask(server, '/')[2]
    assert "script-src 'self'; style-src 'self'" in head['Content-Security-Policy'] and 'unsafe' not in head['Content-Security-Policy']
    assert [t for t,a,_ in Page(page).found if t == 'style' or 'style' in a or t == 'script' and a.get('type') != 'application/json' and 'src' not in a] == []
    assert 'script-src' not in ask(server, '/report.html')[2].get('Content-Security-Policy', '')

@needs_chromium
def test_page_follows(server, tmp_path, monkeypatch):
    "New rows show without a reload, and so does a run that has gone; what was known stays"
    asked = []
    def _data(run, cache):
        asked.append(run)
        if len(asked) == 3:
            with open(run/'steps.csv', 'a') as f: f.write('500,0.5,10,0.001,0.5,0.25,3,0.9,30,0.25,0.1,4321.0,987.0,260.0\n')
        if len(asked) == 5: (run/'config.yaml').unlink()
        return watch_data(run, cache)
    monkeypatch.setattr(watch, 'watch_data', _data)
    p = load(server.url, tmp_path, 11000)
    assert len(asked) >= 5 and 'step 500' in p.text['at'] and p.curves('loss')[0] == 201
    assert p.text['fig-skipped'].endswith('3') and p.attrs('fig-skipped')['class'] == 'bad'
    assert 'not the folder of a run' in p.text['gone'] and 'hidden' not in p.attrs('gone')
