"A training under faults, as a user meets them: stopped, killed, on a full disk, from damaged files, twice at once, with NaN in its features"
import errno, json, os, pickle, random, re, shutil, signal, subprocess, sys, threading, time, warnings
from pathlib import Path
from types import SimpleNamespace

import pandas as pd, pytest, torch, yaml
import torch.distributed as dist, safetensors.torch as safetensors
import quantizer.app.build, quantizer.app.run, quantizer.tokens.tokenizer, quantizer.train.checkpoint_files, quantizer.train.learner, quantizer.train.checkpoint
from quantizer.all import Checkpoint, Corpus, QuantizerError, Tokenizer
from quantizer.train.logging import TIMINGS
from quantizer.app.cli import main
from quantizer.train.checkpoint_files import _state_sha256, _file_sha256, latest_checkpoint, step_checkpoints, verify_checkpoint

# ## Trainings of twelve steps

SMALL = ['train.epochs=4', 'model.encoder.width=16', 'model.encoder.dropout=0.1', 'model.decoder.width=16', 'model.quantizer.codebook_size=16', 'model.quantizer.dim=8', 'train.log_steps=1', 'train.checkpoint.steps=2']

@pytest.fixture(scope='module')
def args(tmp_path_factory):
    "A config, on every sixth recording of the sample, with a store"
    d,c = tmp_path_factory.mktemp('data'),Corpus.sample()
    c.df.iloc[::6].assign(path=[c.file(i) for i in range(0, len(c), 6)]).to_csv(d/'few.tsv', sep='\t', index=False)
    res = ['logmel-vq', *SMALL, f'data.corpus={d/"few.tsv"}', f'data.store={d/"store"}']
    assert main(['features', *res, '--out', str(d/'store')]) == 0
    return res

@pytest.fixture(scope='module')
def no_report():
    "Measuring and the report take longer than these trainings"
    with pytest.MonkeyPatch.context() as m:
        m.setattr(quantizer.app.run, 'report_run', report)
        yield

def report(out, *args):
    (out/'report.html').write_text('<html>')
    return {'this run':dict(nre=1., usage=1., perplexity=1., entropy=1., token_rate=50, bitrate=1., verdict='healthy')}

started = []

@pytest.fixture(autouse=True)
def nothing_left():
    "A test that fails leaves no process behind"
    yield
    while started:
        if (p := started.pop()).poll() is None:
            p.terminate() # torchrun takes its workers along
            p.wait(60)

class Process:
    "The command, in a process of its own: a fork of this one, which has all imports done"
    def __init__(self, *argv, before=lambda: None, env={}):
        self.argv,self.before,(self.out,self.err) = [str(o) for o in argv],before,(os.memfd_create(o) for o in ('out','err'))
        sys.stdout.flush(); sys.stderr.flush()
        self.pid,self.code = os.fork(),None
        if not self.pid: self._run(env)
        started.append(self)
    def _run(self, env):
        code = 99
        try:
            os.dup2(self.out, 1); os.dup2(self.err, 2)
            sys.stdout,sys.stderr = open(1, 'w', closefd=False),open(2, 'w', closefd=False)
            for s in (signal.SIGINT, signal.SIGTERM): signal.signal(s, signal.default_int_handler if s == signal.SIGINT else signal.SIG_DFL)
            os.environ.update(env)
            warnings.showwarning = lambda *args: print(warnings.formatwarning(*args[:4]), file=sys.stderr, end='') # pytest keeps them
            warnings.resetwarnings()
            warnings.filterwarnings('ignore', category=DeprecationWarning)
            self.before()
            code = main(self.argv)
        except BaseException as e:
            import traceback
            traceback.print_exc()
        finally:
            sys.stdout.flush(); sys.stderr.flush()
            os._exit(code)
    def kill(self, signum): os.kill(self.pid, signum)
    def terminate(self): self.kill(signal.SIGKILL)
    def poll(self):
        if self.code is None:
            pid,status = os.waitpid(self.pid, os.WNOHANG)
            if pid: self.code = os.waitstatus_to_exitcode(status)
        return self.code
    def wait(self, timeout=60):
        "Its exit code; it is killed if it takes longer"
        end = time.monotonic()+timeout
        while self.poll() is None and time.monotonic() < end: time.sleep(0.01)
        if self.code is None:
            self.kill(signal.SIGKILL)
            raise AssertionError(f'still running after {timeout} s: {self.said}')
        return self.code
    @property
    def said(self): return os.pread(self.err, 10**6, 0).decode()
    @property
    def printed(self): return os.pread(self.out, 10**6, 0).decode()

def ranks(*argv, n=2, before=lambda rank: None, attempt=0, store=None, timeout=60):
    "`n` processes that train together, as torchrun would start them"
    store = store or dist.TCPStore('localhost', 0, is_master=True, wait_for_workers=False)
    env = dict(WORLD_SIZE=str(n), LOCAL_WORLD_SIZE=str(n), MASTER_ADDR='localhost', MASTER_PORT=str(store.port), TORCHELASTIC_USE_AGENT_STORE='True', TORCHELASTIC_RESTART_COUNT=str(attempt), TORCHELASTIC_RUN_ID='test')
    ps = [Process(*argv, before=lambda r=r: before(r), env=env | dict(RANK=str(r), LOCAL_RANK=str(r))) for r in range(n)]
    for o in ps: o.wait(timeout)
    return ps

def popen(*args, **kwargs):
    started.append(p := subprocess.Popen([sys.executable, *args], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **kwargs))
    return p

def at(step, do, training=True):
    "Do something after a step, or in the validation after it, just before the checkpoint callback looks"
    old = Checkpoint.after_batch
    def after_batch(self):
        if self.train_iter == step and self.training == training: do()
        old(self)
    Checkpoint.after_batch = after_batch

def signal_me(signum=signal.SIGTERM): return lambda: os.kill(os.getpid(), signum)

def no_training():
    "Everything but the fit"
    def _do_fit(self): raise KeyboardInterrupt
    quantizer.train.learner.SpeechLearner._do_fit = _do_fit

def until(f, timeout=60):
    "Wait for something to be true"
    end = time.monotonic()+timeout
    while not f():
        assert time.monotonic() < end, 'waited in vain'
        time.sleep(0.01)

@pytest.fixture(scope='module', autouse=True)
def straight(no_report, args, tmp_path_factory):
    "A run that nothing happens to; here, so that what a first training loads is in all forks"
    out = tmp_path_factory.mktemp('straight')/'run'
    assert main(['train', *args, '--out', str(out)]) == 0
    return out

@pytest.fixture(scope='module')
def straight2(args, tmp_path_factory):
    "The same by two processes, which take 8 steps"
    out = tmp_path_factory.mktemp('straight2')/'run'
    ps = ranks('train', *args, '--out', out)
    assert [(o.code, o.said) for o in ps] == [(0, '')]*2
    return out

@pytest.fixture(scope='module')
def stopped(args, tmp_path_factory):
    "A run that was stopped after step 7, with checkpoints of steps 4, 6 and 7"
    out = tmp_path_factory.mktemp('stopped')/'run'
    assert Process('train', *args, '--out', out, before=lambda: at(7, signal_me())).wait() == 143
    assert checkpoints(out) == [4, 6, 7]
    return out

def checkpoints(out): return [int(o.name[5:]) for o in step_checkpoints(out/'checkpoints')]
def copy(run, to): return Path(shutil.copytree(run, to/'run'))
def table(out, name): return pd.read_csv(out/name).drop(columns=list(TIMINGS), errors='ignore')
def events(out, kind): return pd.read_csv(out/'events.csv').query('kind == @kind').text.tolist()

def same(a, b):
    "The same losses, weights, moments and random generators, bit for bit"
    for o in ('log.csv','steps.csv'): pd.testing.assert_frame_equal(table(a, o), table(b, o), check_exact=True)
    last = step_checkpoints(a/'checkpoints')[-1].name
    for o in [f'checkpoints/{last}/{k}.safetensors' for k in ('model','optimizer','rng')] + ['checkpoints/best/model.safetensors','tokenizer/model.safetensors']:
        assert (a/o).read_bytes() == (b/o).read_bytes(), o

def one_line(said, *texts):
    "No traceback, and one line that begins with the name of the command and has `texts` in it"
    lines = [o for o in said.splitlines() if o.startswith('quantizer: ')]
    assert len(lines) == 1 and 'Traceback' not in said and all(o in lines[0] for o in texts), said

def resume(out, *changes, code=0, before=lambda: None):
    "What `train --resume` says"
    p = Process('train', *changes, '--resume', '--out', out, before=before)
    assert p.wait() == code, p.said
    return p.said

# ## Signals

@pytest.mark.parametrize('step,training,signum', [(5, True, signal.SIGTERM), (1, True, signal.SIGINT), (6, False, signal.SIGTERM), (12, False, signal.SIGINT)])
def test_stopped_and_resumed(args, straight, tmp_path, step, training, signum):
    "After a step, or while validating: the step at hand is saved, and what goes on from there ends at the same bits"
    out = tmp_path/'run'
    p = Process('train', *args, '--out', out, before=lambda: at(step, signal_me(signum), training))
    assert p.wait() == 128+signum
    one_line(p.said, 'terminated' if signum == signal.SIGTERM else 'interrupted')
    assert f'continue with: quantizer train --resume --out {out}' in p.said
    assert checkpoints(out)[-1] == step and not list(out.glob('checkpoints/.*')) and not (out/'report.html').exists()
    if (out/'steps.csv').exists(): pd.testing.assert_frame_equal(table(out, 'steps.csv'), table(straight, 'steps.csv')[:step], check_exact=True)
    if step > 3: assert table(out, 'log.csv').step.tolist() == [o for o in (3, 6, 9, 12) if o < step+training]
    resume(out)
    same(straight, out)
    assert (out/'report.html').exists()

def later(seconds, signum, pause=0.):
    "A signal some time after the first batch, where each batch takes a pause longer"
    def after_batch(self):
        if not sent:
            sent.append(signum)
            threading.Timer(seconds, signal_me(signum)).start()
        time.sleep(pause)
        old(self)
    sent,old,Checkpoint.after_batch = [],Checkpoint.after_batch,after_batch

def test_stopped_again_and_again(args, straight, tmp_path):
    "SIGTERM, SIGINT and SIGKILL at random moments, wherever they hit: nothing is lost, nothing is done twice"
    out,r,codes = tmp_path/'run',random.Random(0),set()
    for i in range(30):
        p = Process('train', *args, '--resume', '--out', out, before=lambda: later(r.random()*0.2, [signal.SIGTERM, signal.SIGKILL, signal.SIGINT][i%3], pause=0.03))
        codes.add(p.wait())
        r.random()
        assert 'Traceback' not in p.said and p.code in (0, 130, 143, -9), (p.code, p.said)
        if not p.code: break
    assert not p.code and codes >= {0, 143, -9}
    same(straight, out)

def test_second_ctrl_c(args, tmp_path):
    "The first waits for the step and the save, a second ends at once; what is half saved does no harm"
    def slow(*args, **kwargs):
        print('saving', flush=True)
        time.sleep(60)
    out = tmp_path/'run'
    p = Process('train', *args, '--out', out, before=lambda: setattr(quantizer.train.checkpoint_files, 'save_file', slow))
    until(lambda: 'saving' in p.printed)
    p.kill(signal.SIGINT)
    time.sleep(0.3)
    assert p.poll() is None
    p.kill(signal.SIGINT)
    assert p.wait(5) == 130
    one_line(p.said, 'interrupted')
    assert not checkpoints(out)
    resume(out, before=no_training, code=130)

def test_stopped_outside_of_the_training(args, tmp_path):
    "While features are extracted, and while the report is made: there is nothing to save, and nobody waits"
    def slow(*args, **kwargs):
        print('slow', flush=True)
        time.sleep(60)
    out,old = tmp_path/'run',quantizer.app.build.build_store
    for where,name,signum in ((quantizer.app.build, 'build_store', signal.SIGINT), (quantizer.app.run, 'report_run', signal.SIGTERM), (quantizer.app.run, 'report_run', signal.SIGINT)):
        p = Process('train', *args, 'data.store=null', '--resume', '--out', out, before=lambda: setattr(where, name, slow))
        until(lambda: 'slow' in p.printed)
        p.kill(signum)
        assert p.wait(10) == 128+signum
        one_line(p.said)
    resume(out)
    assert (out/'report.html').exists() and checkpoints(out)[-1] == 12

@pytest.mark.slow # the signals as such are above, the command as a process of its own in test_cli.py
def test_real_command(args, tmp_path):
    out = tmp_path/'run'
    p = popen('-m', 'quantizer', 'train', *args, 'train.epochs=100000', '--out', out)
    until(lambda: checkpoints(out))
    p.terminate()
    err = p.communicate(timeout=60)[1]
    assert p.returncode == 143
    one_line(err, 'terminated')
    assert resume(out, before=no_training, code=130).startswith(f'step {checkpoints(out)[-1]}: resumed from')

# ## Two processes

def test_two_stopped_by_a_signal_to_one(args, straight2, tmp_path):
    "Both stop after the same step, and go on from it to the same bits"
    out = tmp_path/'run'
    ps = ranks('train', *args, '--out', out, before=lambda rank: at(4, signal_me()) if rank else None)
    assert [o.code for o in ps] == [143, 143]
    one_line(''.join(o.said for o in ps), 'terminated')
    assert checkpoints(out)[-1] in (4, 5)
    assert [o.code for o in ranks('train', '--resume', '--out', out)] == [0, 0]
    same(straight2, out)

def test_two_clocks(args, straight2, tmp_path):
    "Five minutes pass on the first one's clock after step 3, on the second's always: both save after step 4, which hears of it, and nothing else changes"
    def clock(rank):
        passed = [0]
        def monotonic():
            passed[0] += 301*rank
            return passed[0]
        quantizer.train.checkpoint.time = SimpleNamespace(monotonic=monotonic)
        at(3, lambda: passed.__setitem__(0, passed[0]+301))
    ps = ranks('train', *args, 'train.checkpoint.steps=100', '--out', tmp_path/'run', before=clock)
    assert [(o.code, o.said) for o in ps] == [(0, '')]*2
    assert checkpoints(tmp_path/'run') == [4, 8]
    same(straight2, tmp_path/'run')

def test_two_restarted(args, straight2, tmp_path):
    "One is killed: the other ends too, and says so; the next attempt resumes without being told, and ends at the same bits"
    out,store = tmp_path/'run',dist.TCPStore('localhost', 0, is_master=True, wait_for_workers=False)
    ps = ranks('train', *args, 'data.workers=1', '--out', out, store=store, before=lambda rank: at(5, signal_me(signal.SIGKILL)) if rank else None, timeout=20)
    assert [o.code for o in ps] == [1, -9]
    one_line(''.join(o.said for o in ps), 'process 0 cannot reach another one')
    ps = ranks('train', *args, 'data.workers=1', '--out', out, store=store, attempt=1, before=lambda rank: time.sleep(rank)) # the second comes late
    assert [o.code for o in ps] == [0, 0] and 'resumed from step-00000004' in ps[0].said
    same(straight2, out)

def test_two_and_a_bug_in_one(args, tmp_path):
    def bug(): raise ZeroDivisionError('of the second process')
    ps = ranks('train', *args, '--out', tmp_path/'run', before=lambda rank: at(3, bug) if rank else None, timeout=20)
    said = ''.join(o.said for o in ps)
    assert [o.code for o in ps] == [1, 1] and said.count('Traceback') == said.count('ZeroDivisionError: ') == 1 and 'quantizer: ' not in said, said

def test_two_and_a_mistake(args, straight, tmp_path):
    "One line, whoever finds it: both, or the first alone while the other waits"
    def broken(*args, **kwargs): raise QuantizerError('these features cannot be made')
    for changes,before,said in ((['train.lrr=3'], None, "did you mean 'lr'"), (['data.store=null'], lambda rank: setattr(quantizer.app.build, 'build_store', broken), 'cannot be made'), (['--out', straight], None, 'holds a run already')):
        ps = ranks('train', *args, '--out', tmp_path/'run', *changes, before=before or (lambda rank: None), timeout=20)
        assert [o.code for o in ps] == [1, 1]
        one_line(''.join(o.said for o in ps), said)
        assert not (tmp_path/'run').exists()

def test_other_number_of_processes(args, straight, tmp_path):
    "Works, and says that the bits will differ"
    a,b = tmp_path/'a',tmp_path/'b'
    assert Process('train', *args, '--out', a, before=lambda: at(6, signal_me())).wait() == 143
    ps = ranks('train', '--resume', '--out', a)
    assert [o.code for o in ps] == [0, 0] and 'continuing with 2 processes after 1: results may differ' in ps[0].said
    assert len(table(a, 'log.csv')) == 4
    assert [o.code for o in ranks('train', *args, '--out', b, before=lambda rank: at(4, signal_me()))] == [143, 143]
    assert 'continuing with 1 processes after 2: results may differ' in resume(b)
    assert len(table(b, 'log.csv')) == 4 and abs(table(b, 'log.csv').nre.iloc[-1]-table(straight, 'log.csv').nre.iloc[-1]) < 0.02

WORKER = """
import atexit, os, signal, sys
from quantizer.all import Checkpoint
from quantizer.app.cli import main
old = Checkpoint.after_batch
def after_batch(self):
    if self.training and self.train_iter == 5 and os.environ['RANK'] == '1' and os.environ['TORCHELASTIC_RESTART_COUNT'] == '0': os.kill(os.getpid(), signal.SIGKILL)
    old(self)
Checkpoint.after_batch = after_batch
atexit.register(os.abort) # Python's shutdown must not be reached: threads of torch can abort it
sys.exit(main())
"""

def torchrun(*args):
    path = {'PYTHONPATH':str(Path(quantizer.__file__).parent.parent)}
    return popen('-m', 'torch.distributed.run', '--standalone', '--nproc-per-node', '2', *args, env=os.environ | path)
def children(pid): return [int(o) for o in Path(f'/proc/{pid}/task/{pid}/children').read_text().split()]
def alive(pids): return [o for o in pids if Path(f'/proc/{o}').exists() and Path(f'/proc/{o}/stat').read_text().split(')')[-1].split()[0] != 'Z']

def test_torchrun_restarts(args, straight2, tmp_path):
    (tmp_path/'worker.py').write_text(WORKER)
    p = torchrun('--max-restarts', '2', tmp_path/'worker.py', 'train', *args, '--out', tmp_path/'run')
    out,err = p.communicate(timeout=100)
    assert p.returncode == 0 and err.count('resumed from step-00000004') == 1 and 'quantizer: ' not in err.replace('quantizer: process 0 cannot reach', ''), err
    same(straight2, tmp_path/'run')

@pytest.mark.slow
def test_torchrun_killed_and_terminated(args, tmp_path):
    "All end soon when one is killed, and nobody is left; a signal to torchrun stops and saves"
    out,long = tmp_path/'run',[*args, 'train.epochs=100000']
    p = torchrun('-m', 'quantizer', 'train', *long, '--out', out)
    until(lambda: len(checkpoints(out)) > 2)
    workers = children(p.pid)
    assert len(workers) == 2
    os.kill(workers[1], signal.SIGKILL)
    t0 = time.monotonic()
    err = p.communicate(timeout=60)[1]
    assert p.returncode == 1 and not alive(workers) and time.monotonic()-t0 < 30
    one_line('\n'.join(o for o in err.splitlines() if o.startswith('quantizer: ')), 'process 0 cannot reach')
    last = checkpoints(out)[-1]
    p = torchrun('-m', 'quantizer', 'train', *long, '--resume', '--out', out)
    until(lambda: checkpoints(out)[-1] > last)
    p.terminate()
    err = p.communicate(timeout=60)[1]
    assert p.returncode and 'stopped and saved' in err and [o for o in err.splitlines() if o.startswith('quantizer: ')] == ['quantizer: terminated'], err
    verify_checkpoint(step_checkpoints(out/'checkpoints')[-1])

# ## Disks that are full

@pytest.fixture
def disk():
    "Mount a small disk on a folder"
    mounted = []
    def _mount(at, kb):
        if subprocess.run(['mount', '-t', 'tmpfs', '-o', f'size={kb}k', 'tmpfs', at], capture_output=True).returncode: pytest.skip('may not mount a disk')
        mounted.append(at)
    yield _mount
    for o in mounted: subprocess.run(['umount', '-l', o], check=True)

def test_checkpoints_do_not_fit(straight, stopped, tmp_path, disk):
    "Each is told once, the last good ones stay whole, the training does what it would have done, and goes on once there is room"
    out = copy(stopped, tmp_path)
    def room(size): subprocess.run(['mount', '-o', f'remount,size={size}', out/'checkpoints'], check=True)
    (out/'checkpoints').rename(tmp_path/'before')
    (out/'checkpoints').mkdir()
    disk(out/'checkpoints', 9000)
    shutil.copytree(tmp_path/'before', out/'checkpoints', dirs_exist_ok=True)
    vfs = os.statvfs(out/'checkpoints')
    room((vfs.f_blocks-vfs.f_bfree)*vfs.f_bsize+2*(out/'checkpoints/best/model.safetensors').stat().st_size) # the best fits
    said = resume(out)
    assert [o.split('/')[-1] for o in said.splitlines()[1:]] == [f'step-{o:08d}: not saved (no space left on device); training continues, earlier checkpoints stay' for o in (8, 10, 12, 12)], said
    assert checkpoints(out) == [4, 6, 7] and verify_checkpoint(latest_checkpoint(out/'checkpoints'))['step'] == 7 and not list(out.glob('checkpoints/.*'))
    for o in ('log.csv','steps.csv'): pd.testing.assert_frame_equal(table(straight, o), table(out, o), check_exact=True)
    assert (out/'tokenizer/model.safetensors').read_bytes() == (straight/'tokenizer/model.safetensors').read_bytes()
    room('9m')
    assert 'not saved' not in resume(out)
    same(straight, out)

def test_full_for_a_while(args, straight, tmp_path, disk):
    "Tables and checkpoints have a gap where there was no room; no line of them is torn"
    (out := tmp_path/'run').mkdir()
    disk(out, 4000)
    def fill():
        with open(out/'.filler', 'wb', buffering=0) as f:
            for n in (4096, 1):
                try:
                    while True: f.write(bytes(n))
                except OSError: pass
    def before():
        at(3, fill)
        at(9, (out/'.filler').unlink)
    p = Process('train', *args, '--out', out, before=before)
    assert p.wait() == 0, p.said
    assert re.findall(r'(\S+): not saved .no space left on device', p.said.replace(f'{out}/checkpoints/', '')) == ['best','step-00000004','step-00000006','best','step-00000008'] and 'Traceback' not in p.said, p.said
    for o in ('log.csv','steps.csv'):
        a,b = table(straight, o),table(out, o)
        pd.testing.assert_frame_equal(a[a.step.isin(b.step)].reset_index(drop=True), b, check_exact=True)
        assert {1, 2, 10, 11, 12} <= set(b.step) if o == 'steps.csv' else {12} <= set(b.step)
    assert verify_checkpoint(latest_checkpoint(out/'checkpoints'))['step'] == 12

def test_nothing_can_be_written(args, straight, tmp_path):
    "Every save and every row fails, and the training still ends with a tokenizer: of the last weights"
    def full(*args, **kwargs): raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    def before():
        quantizer.train.checkpoint_files.save_file = full
        quantizer.train.logging.CSVFile.write = full
    out = tmp_path/'run'
    p = Process('train', *args, '--out', out, before=before)
    assert p.wait() == 0 and 'Traceback' not in p.said, p.said
    for o in ('log.csv','steps.csv','events.csv'): assert p.said.count(f'{out/o}: not written (no space left on device)') == 1
    assert p.said.count('not saved (no space left on device)') == 7+4 and not list((out/'checkpoints').iterdir())
    last = safetensors.load_file(step_checkpoints(straight/'checkpoints')[-1]/'model.safetensors')
    for k,v in Tokenizer.load(out).model.state_dict().items(): assert torch.equal(v, last[k])

def test_best_does_not_fit(args, tmp_path):
    "The best of all cannot be saved: the best that can be is"
    def save(path, *args, **state):
        if path.name == 'best' and state['step'] == 6: raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        old(path, *args, **state)
    def before():
        quantizer.train.checkpoint.save_checkpoint = save
        quantizer.train.checkpoint.to_minimise = lambda learn, name: (3., 1., 2., 2.5)[learn.epoch]
    old = quantizer.train.checkpoint.save_checkpoint
    p = Process('train', *args, '--out', tmp_path/'run', before=before)
    assert p.wait() == 0 and p.said.count('not saved') == 1
    assert verify_checkpoint(tmp_path/'run/checkpoints/best')['step'] == 9

def test_no_room_for_the_tokenizer(args, tmp_path):
    "One line, and once there is room the rest is done"
    def full(*args, **kwargs): raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(tmp_path/'run/tokenizer'))
    p = Process('train', *args, '--out', tmp_path/'run', before=lambda: setattr(quantizer.tokens.tokenizer.Tokenizer, 'save', full))
    assert p.wait() == 1
    one_line(p.said, 'tokenizer: no space left on device')
    before = table(tmp_path/'run', 'log.csv')
    resume(tmp_path/'run')
    pd.testing.assert_frame_equal(before, table(tmp_path/'run', 'log.csv'))
    Tokenizer.load(tmp_path/'run')

# ## Checkpoints that are damaged, or not what they seem

def resign(path, **changes):
    "A `state.json` that vouches for what is there"
    state = json.loads((path/'state.json').read_text()) | changes
    state['sha256'] = {o.name:_file_sha256(o) for o in path.glob('*.safetensors')}
    state.pop('self', None)
    (path/'state.json').write_text(json.dumps(state | dict(self=_state_sha256(state))))

def flip(path): path.write_bytes((b := path.read_bytes())[:len(b)//2]+bytes([b[len(b)//2]^1])+b[len(b)//2+1:])
def cut(path): path.write_bytes((b := path.read_bytes())[:len(b)*2//3])
def other(path):
    shutil.rmtree(path)
    shutil.copytree(path.parent/'best', path)

DAMAGE = dict({f'flipped_{k}':(lambda p, k=k: flip(p/f'{k}.safetensors'), f'{k}.safetensors: damaged') for k in ('model','optimizer','rng','callbacks')},
    flipped_state=(lambda p: flip(p/'state.json'), 'state.json'),
    truncated=(lambda p: cut(p/'optimizer.safetensors'), 'optimizer.safetensors: damaged'),
    removed=(lambda p: (p/'rng.safetensors').unlink(), 'rng.safetensors: damaged or missing'),
    empty_state=(lambda p: (p/'state.json').write_text(''), 'not a checkpoint'),
    list_state=(lambda p: (p/'state.json').write_text('[1]'), 'not a checkpoint'),
    deep_state=(lambda p: (p/'state.json').write_text('['*100_000), 'not a checkpoint'),
    binary_state=(lambda p: (p/'state.json').write_bytes(b'\xff'*100), 'not a checkpoint'),
    state_of_another=(lambda p: shutil.copy(p.with_name('step-00000006')/'state.json', p), 'damaged'),
    changed_state=(lambda p: (p/'state.json').write_text((p/'state.json').read_text().replace('"step": 7', '"step": 3')), 'state.json: damaged'),
    weights_only=(other, 'holds no optimizer'))

@pytest.mark.parametrize('kind', DAMAGE)
def test_damaged(straight, stopped, tmp_path, kind):
    "The one before is taken, and what was not taken is named"
    out = copy(stopped, tmp_path)
    damage,why = DAMAGE[kind]
    damage(out/'checkpoints/step-00000007')
    full = kind == 'flipped_model'
    said = resume(out, before=(lambda: None) if full else no_training, code=0 if full else 130)
    assert 'Traceback' not in said and 'resumed from step-00000006' in said, said
    assert any('step-00000007' in o and why in o for o in said.splitlines()) and any('step-00000007' in o for o in events(out, 'warning')), said
    if full: same(straight, out)

def test_all_damaged(stopped, tmp_path):
    out = copy(stopped, tmp_path)
    for o in step_checkpoints(out/'checkpoints'): flip(o/'model.safetensors')
    one_line(resume(out, code=1), f'{out}/checkpoints: none of its 3 checkpoints is whole')

class Evil:
    def __init__(self, marker): self.marker = marker
    def __reduce__(self): return os.system, (f'touch {self.marker}',)

@pytest.mark.parametrize('signed', (False, True))
@pytest.mark.parametrize('name', ('model.safetensors','optimizer.safetensors','rng.safetensors','callbacks.safetensors','state.json','folder'))
def test_pickle(stopped, tmp_path, name, signed):
    "Refused, also where a `state.json` vouches for it, and never run"
    out,code = copy(stopped, tmp_path),pickle.dumps(Evil(tmp_path/'pwned'))
    path = out/'checkpoints/step-00000007'
    if name == 'folder': (out/'checkpoints/step-00000099').write_bytes(code)
    else: (path/name).write_bytes(code)
    if signed and name not in ('folder','state.json'): resign(path)
    said = resume(out, before=no_training, code=130)
    assert 'Traceback' not in said and f'resumed from step-0000000{7 if name == "folder" else 6}' in said, said
    assert not (tmp_path/'pwned').exists()
    pickle.loads(code)
    assert (tmp_path/'pwned').exists() # it would have shown

# ## Two trainings in one folder

def test_second_training(args, tmp_path):
    "The second is refused at any time, the first does not notice; after `kill -9` the folder is free"
    def slow(*args, **kwargs):
        print('slow', flush=True)
        time.sleep(2)
        return old(*args, **kwargs)
    out,old = tmp_path/'run',quantizer.app.build.build_store
    first = Process('train', *args, 'data.store=null', 'data.workers=1', 'train.epochs=100000', '--out', out, before=lambda: setattr(quantizer.app.build, 'build_store', slow))
    until(lambda: 'slow' in first.printed) # it extracts
    for flags in ([], ['--resume']):
        p = Process('train', *args, 'data.store=null', *flags, '--out', out)
        assert p.wait() == 1
        one_line(p.said, f'{out}: another process is training in it')
    until(lambda: checkpoints(out))
    one_line(resume(out, code=1), f'{out}: another process is training in it')
    last = checkpoints(out)[-1]
    until(lambda: checkpoints(out)[-1] > last)
    assert first.poll() is None and not first.said
    first.kill(signal.SIGKILL)
    first.wait()
    assert 'resumed from' in resume(out, before=no_training, code=130)

# ## Going on with something else

def test_changed_config(args, stopped, tmp_path):
    "What does not touch the numbers passes and is written down; what does is refused by name"
    out = copy(stopped, tmp_path)
    harmless = ['data.workers=1', 'train.log_steps=5', 'train.checkpoint.keep=9', 'train.nonfinite=skip']
    assert 'resumed from step-00000007' in resume(out, *args, *harmless, before=no_training, code=130)
    assert sorted(events(out, 'config')) == sorted(['data.workers: 0 -> 1', 'train.log_steps: 1 -> 5', 'train.checkpoint.keep: 3 -> 9', "train.nonfinite: 'stop' -> 'skip'"])
    before = (out/'config.yaml').read_text()
    for change,said in (('train.lr=0.1', "'train.lr' is 0.1, and the run was started with 0.002"), ('train.epochs=5', "'train.epochs' is 5"), ('model.encoder.width=24', "'model.encoder.width' is 24"), ('seed=1', "'seed' is 1"), ('data.batch_size=8', "'data.batch_size' is 8")):
        one_line(resume(out, *args, *harmless, change, code=1), said, '--override')
    one_line(resume(out, *args, *harmless, 'model.encoder.width=24', '--override', code=1), 'of another model')
    assert (out/'config.yaml').read_text() == before
    resume(out, *args, *harmless, 'train.epochs=5', '--override')
    assert table(out, 'log.csv').step.tolist() == [3, 6, 9, 12, 15] and 'train.epochs: 4 -> 5' in events(out, 'config')

def test_changed_corpus(args, tmp_path):
    "A recording that is gone, or new, or as long but another"
    corpus = next(o for o in args if o.startswith('data.corpus=')).split('=')[1]
    few,out = pd.read_csv(corpus, sep='\t'),tmp_path/'run'
    few.to_csv(tmp_path/'few.tsv', sep='\t', index=False)
    mine = [*args, f'data.corpus={tmp_path/"few.tsv"}', f'data.store={tmp_path/"store"}']
    assert Process('train', *mine, '--out', out, before=lambda: at(7, signal_me())).wait() == 143
    c = Corpus.sample()
    for df in (few[:-1], pd.concat([few, c.df.iloc[1:2].assign(path=[str(c.file(1))])]), few.assign(split=['valid' if o == 3 else s for o,s in enumerate(few.split)])):
        df.to_csv(tmp_path/'few.tsv', sep='\t', index=False)
        p = Process('features', *mine, '--out', tmp_path/'store')
        assert p.wait() == 0
        one_line(resume(out, code=1), f'{out}: was started with 54 recordings', '--override')
    assert 'resumed from step-00000007' in resume(out, '--override', before=no_training, code=130)

def test_resume_nothing(args, tmp_path):
    "An empty folder is a start, if there is a config; a finished run only gets its report anew"
    out = tmp_path/'run'
    one_line(resume(out, code=1), f'{out}: holds no run to resume')
    assert not out.exists()
    out.mkdir()
    said = resume(out, *args)
    assert not said and len(table(out, 'log.csv')) == 4
    (out/'report.html').unlink()
    before = {o:(out/o).read_bytes() for o in ('log.csv','steps.csv','checkpoints/best/model.safetensors','tokenizer/model.safetensors')}
    stamps = [o.stat().st_mtime_ns for o in out.glob('checkpoints/*/*')]
    resume(out)
    assert (out/'report.html').exists() and before == {o:(out/o).read_bytes() for o in before} and stamps == [o.stat().st_mtime_ns for o in out.glob('checkpoints/*/*')]

def test_resume_half_a_start(args, straight, tmp_path):
    "Killed between the first files of a run"
    out = tmp_path/'run'
    def die(*args, **kwargs): os.kill(os.getpid(), signal.SIGKILL)
    assert Process('train', *args, '--out', out, before=lambda: setattr(yaml, 'safe_dump', die)).wait() == -9
    assert (out/'data.json').exists() and not (out/'config.yaml').exists()
    assert not resume(out, *args)
    same(straight, out)

def test_killed_before_a_checkpoint(args, straight, tmp_path):
    "It begins again, says how much that costs, and keeps what the lost start has written"
    out = tmp_path/'run'
    assert Process('train', *args, 'train.checkpoint.steps=100', '--out', out, before=lambda: at(8, signal_me(signal.SIGKILL))).wait() == -9
    lost,best = (out/'log.csv').read_bytes(),(out/'checkpoints/best/model.safetensors').read_bytes()
    said = f'{out}/checkpoints has no checkpoint: 2 epochs of training are lost, and the run begins again; kept from before: log-1.csv, steps-1.csv, best-1'
    assert resume(out) == f'step 0: {said}\n'
    assert pd.read_csv(out/'events.csv').kind.tolist() == ['started','started','warning','finished'] and events(out, 'warning') == [said]
    assert (out/'log-1.csv').read_bytes() == lost and (out/'checkpoints/best-1/model.safetensors').read_bytes() == best and len(pd.read_csv(out/'steps-1.csv')) == 8
    same(straight, out)

def test_small_corpus_reaches_checkpoints(args, tmp_path):
    "Ten checkpoints in a run of 36 steps, by default: killed after step 35, it goes on from step 33"
    out,mine = tmp_path/'run',[o for o in args if 'checkpoint' not in o]
    assert Process('train', *mine, 'train.epochs=12', 'train.checkpoint.keep=99', '--out', out, before=lambda: at(35, signal_me(signal.SIGKILL))).wait() == -9
    assert checkpoints(out) == [*range(3, 34, 3)]
    assert 'resumed from step-00000033, in epoch 10 after 3 of 3 batches' in resume(out, before=no_training, code=130)

# ## NaN

def bad_at(*steps, where):
    "Features, or the loss, are NaN in some steps"
    from quantizer.models.autoencoder import SpeechQuantizer
    def forward(self, x, *args, **kwargs):
        self.calls = getattr(self, 'calls', 0)+self.training
        hit = self.training and self.calls in steps
        res = old(self, x*float('nan') if hit and where == 'features' else x, *args, **kwargs)
        if hit and where == 'loss': res.loss = res.loss*float('nan')
        return res
    old,SpeechQuantizer.forward = SpeechQuantizer.forward,forward

@pytest.mark.parametrize('where', ('features','loss'))
def test_nan(args, tmp_path, where):
    "`stop`: one line with the step and what to do, and the checkpoints before it are finite. `skip`: the step is left out and counted"
    out = tmp_path/'stop'
    p = Process('train', *args, '--out', out, before=lambda: bad_at(8, where=where))
    assert p.wait() == 1
    one_line(p.said, 'training diverged in epoch 2, after step 7', 'train.nonfinite=skip', f'{out}/checkpoints')
    assert checkpoints(out) == [2, 4, 6] and all(torch.isfinite(v).all() for v in safetensors.load_file(latest_checkpoint(out/'checkpoints')/'model.safetensors').values())
    out = tmp_path/'skip'
    p = Process('train', *args, 'train.nonfinite=skip', '--out', out, before=lambda: bad_at(5, 8, where=where))
    assert p.wait() == 0 and 'Traceback' not in p.said, p.said
    assert table(out, 'steps.csv').skipped.iloc[-1] == 2 and len(table(out, 'log.csv')) == 4
    assert all(torch.isfinite(v).all() for v in safetensors.load_file(latest_checkpoint(out/'checkpoints')/'model.safetensors').values())

@pytest.mark.parametrize('where', ('features','loss'))
def test_nan_in_one_of_two(args, tmp_path, where):
    "Nobody waits for the other, and both leave the same step out"
    ps = ranks('train', *args, '--out', tmp_path/'stop', before=lambda rank: bad_at(5, where=where) if rank else None, timeout=30)
    assert [o.code for o in ps] == [1, 1]
    one_line(''.join(o.said for o in ps), 'training diverged in epoch 2, after step 4')
    assert checkpoints(tmp_path/'stop') == [2, 4]
    out = tmp_path/'skip'
    ps = ranks('train', *args, 'train.nonfinite=skip', '--out', out, before=lambda rank: bad_at(3, 5, where=where) if rank else None, timeout=30)
    assert [o.code for o in ps] == [0, 0] and 'Traceback' not in ps[0].said+ps[1].said, ps[0].said+ps[1].said
    assert table(out, 'steps.csv').skipped.iloc[-1] == 2 and table(out, 'log.csv').nre.notna().all()

# ## Weights of another training

def test_init_from(args, straight, tmp_path):
    "A run, its checkpoint or its tokenizer; all, or the codebook alone; grown where it is smaller"
    start = ['train', *args, '--out']
    def first(out, *changes):
        "The weights that it begins with"
        p = Process(*start, tmp_path/out, *changes, before=lambda: (at(1, signal_me()), setattr(quantizer.train.learner.SpeechLearner, '_do_fit', save_weights)))
        assert p.wait() == 130, p.said
        return safetensors.load_file(tmp_path/out/'weights.safetensors')
    def save_weights(self):
        safetensors.save_file({k:v.contiguous() for k,v in self.model.state_dict().items()}, self.run_log.path/'weights.safetensors')
        raise KeyboardInterrupt
    best,last = straight/'checkpoints/best',step_checkpoints(straight/'checkpoints')[-1]
    of = {o:safetensors.load_file(o/'model.safetensors') for o in (best, last)}
    fresh = first('fresh')
    for i,(source,want) in enumerate(((straight, best), (best, best), (last, last), (straight/'tokenizer', best))):
        got = first(f'all{i}', f'train.init_from={source}')
        assert all(torch.equal(got[k], of[want][k]) for k in got)
    got = first('codebook', f'train.init_from={straight}', 'train.init_part=codebook')
    assert all(torch.equal(v, of[best][k] if k.startswith('quantizer.') else fresh[k]) for k,v in got.items())
    got = first('grown', f'train.init_from={straight}', 'model.quantizer.codebook_size=24')
    assert got['quantizer.codebook'].shape == (24, 8) and torch.equal(got['quantizer.codebook'][:16], of[best]['quantizer.codebook'])
    for change,said in ((['model.losses={mse: 1.0}', 'model.quantizer.name=fsq', 'model.quantizer.levels=[4,4]'], 'is of another kind'), (['model.encoder.width=24'], 'is of another kind'), ([f'train.init_from={tmp_path/"gone"}'], 'gone')):
        p = Process(*start, tmp_path/'bad', f'train.init_from={straight}', *change)
        assert p.wait() == 1
        one_line(p.said, said)
        assert not (tmp_path/'bad').exists()

def test_init_from_killed_before_the_first_checkpoint(args, straight, tmp_path):
    "What resumes then begins with the same weights again"
    a,b = tmp_path/'a',tmp_path/'b'
    mine = [*args, f'train.init_from={straight}', 'train.checkpoint.steps=100']
    assert Process('train', *mine, '--out', a).wait() == 0
    assert Process('train', *mine, '--out', b, before=lambda: at(2, signal_me(signal.SIGKILL))).wait() == -9
    assert 'resumed' not in resume(b)
    same(a, b)
