"""Trains small runs in forked processes, and kills them where it is told to; started by test_resume.py

A job is a line of JSON: `args` of `train_run`, `world` processes, and `kill`: `[rank, what, n]` ends a process by SIGKILL at the `n`th occurrence of `what`, an event of the training loop or `write`, one of the
operations on files that make a checkpoint; `["all", "time", s]` ends all after `s` seconds. The answer is a line with how each process ended."""
import json, os, shutil, signal, socket, sys, time, traceback
from pathlib import Path

import quantizer.core.files, quantizer.app.run, torch
import quantizer.train.checkpoint_files as checkpoint_files
from quantizer.all import SpeechLearner

def die(counter, n):
    counter[0] += 1
    if counter[0] == n: os.kill(os.getpid(), signal.SIGKILL)

def arm(what, n):
    "Have this process die at the `n`th `what`"
    counter = [0]
    if what == 'write':
        def _wrap(o, name):
            f = getattr(o, name)
            def _f(*args, **kwargs):
                inside = any(fr.f_code.co_name in ('save_checkpoint','save') for fr in frames())
                if inside: die(counter, n)
                return f(*args, **kwargs)
            setattr(o, name, _f)
        for o,name in ((checkpoint_files,'save_file'), (quantizer.core.files,'_fsync'), (os,'replace'), (Path,'rename'), (shutil,'rmtree')): _wrap(o, name)
    else:
        call = SpeechLearner.__call__
        def _call(self, event):
            if event == what: die(counter, n)
            return call(self, event)
        SpeechLearner.__call__ = _call

def frames():
    f = sys._getframe(1)
    while f: yield f; f = f.f_back

def child(job, rank, port):
    if job['world'] > 1: os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(job['world']), MASTER_ADDR='127.0.0.1', MASTER_PORT=str(port))
    if (k := job.get('kill')) and k[0] == rank: arm(*k[1:])
    quantizer.app.run.report_run = lambda *args: {}
    sys.stdout = open(os.devnull, 'w')
    sys.stderr = open(f"{job['args'][1]}.err{rank}", 'a', buffering=1)
    os.dup2(sys.stderr.fileno(), 2)
    try: quantizer.app.run.train_run(*job['args'], progress=False, resume=True)
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)

def run(job):
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        port = s.getsockname()[1]
    pids = []
    for r in range(job['world']):
        if not (pid := os.fork()): child(job, r, port)
        pids.append(pid)
    if (k := job.get('kill')) and k[1] == 'time':
        time.sleep(k[2])
        for p in pids: os.kill(p, signal.SIGKILL)
    ends,until = {},time.time()+120
    while len(ends) < len(pids):
        for p in pids:
            if p in ends: continue
            done,status = os.waitpid(p, os.WNOHANG)
            if done: ends[p] = os.waitstatus_to_exitcode(status)
        if any(ends.values()) or time.time() > until: # one is gone: a launcher would end the others
            time.sleep(0.2)
            for p in pids:
                if p not in ends: os.kill(p, signal.SIGKILL)
        time.sleep(0.01)
    return [ends[p] for p in pids]

if __name__ == '__main__':
    torch.set_num_threads(1)
    import torch._dynamo # an optimizer wants it
    from transformers import WhisperForConditionalGeneration, WhisperTokenizerFast
    print('ready', flush=True)
    for line in sys.stdin: print(json.dumps(run(json.loads(line))), flush=True)
