"""What make_golden.py and test_golden.py share; as a program, it runs the command in forked processes

They have the imports behind them. A job is a line of JSON: `args` of the command, the folder `cwd` that it
runs in, and the number `world` of its processes; first, a small random Whisper is made in the folder
`whisper`, if there is one. The answer is a line of exit codes; what the processes say goes to
`said.txt`."""
import csv
import hashlib
import importlib
import json
import os
import platform
import re
import runpy
import signal
import socket
import sys
import time
import traceback
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file

SIMD = ('sse', 'avx', 'fma', 'f16c', 'amx', 'neon', 'sve', 'asimd')
SWITCHES = ('ATEN_CPU_CAPABILITY', 'ONEDNN_MAX_CPU_ISA', 'MKL_ENABLE_INSTRUCTIONS', 'MKL_CBWR')


def machine():
    "What decides how floating-point numbers are rounded here"
    text = Path('/proc/cpuinfo').read_text() if Path('/proc/cpuinfo').exists() else ''
    cpu = dict(re.findall(r'^(.*?)\s*: (.*)$', text.partition('\n\n')[0], flags=re.M))
    flags = sorted(o for o in cpu.get('flags', cpu.get('Features', '')).split() if o.startswith(SIMD))
    return dict(
        processor=' '.join(cpu.get(k, '?') for k in ('model name', 'cpu family', 'model', 'cache size')),
        architecture=platform.machine(),
        flags=hashlib.sha256(' '.join(flags).encode()).hexdigest()[:16],
        capability=torch.backends.cpu.get_cpu_capability(),
        switches={k: os.environ[k] for k in SWITCHES if k in os.environ},
        torch=torch.__version__,
        numpy=np.__version__)


def summary(path):
    "Of each tensor in a file of weights: a hash of its bytes, and its root mean square"
    def _of(t):
        data = t.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
        return [hashlib.sha256(data).hexdigest()[:16], float(t.double().square().mean().sqrt())]
    return {k: _of(t) for k, t in sorted(load_file(path).items())}


def rows(path):
    "The rows of a CSV file"
    with open(path, newline='') as f:
        return list(csv.DictReader(f))


def free_port():
    "A port that the processes of a run can meet at"
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        return s.getsockname()[1]


def join_others(rank, world, port):
    "The environment that `torchrun` gives a process"
    where = dict(MASTER_ADDR='127.0.0.1', MASTER_PORT=str(port))
    os.environ.update(where, RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(world))


def letters_tokenizer(path):
    "Save a tokenizer of Whisper's kind that knows bytes, and two languages"
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tok = Tokenizer(models.BPE({o: i for i, o in enumerate(letters)}, []))
    tok.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tok.decoder = decoders.ByteLevel()
    names = ('endoftext', 'startoftranscript', 'en', 'es', 'transcribe', 'notimestamps')
    tok.add_special_tokens([AddedToken(f'<|{o}|>', special=True) for o in names])
    tok.save(f'{path}/tokenizer.json')
    return len(letters)


def small_whisper(path):
    "Save a Whisper of one layer with random weights, always the same"
    import transformers
    transformers.utils.logging.set_verbosity_error()
    os.makedirs(path)
    end = letters_tokenizer(path)
    special = dict(pad_token_id=end, bos_token_id=end, eos_token_id=end, decoder_start_token_id=end+1)
    heads = dict(encoder_attention_heads=2, decoder_attention_heads=2)
    layers = dict(encoder_layers=1, decoder_layers=2, encoder_ffn_dim=64, decoder_ffn_dim=64)
    size = dict(d_model=32, vocab_size=end+6, max_target_positions=448, init_std=0.1)
    cfg = transformers.WhisperConfig(**size, **layers, **heads, **special)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        transformers.WhisperForConditionalGeneration(cfg).save_pretrained(path)


def command(args):
    "Run `python -m quantizer` with `args`; the exit code"
    sys.argv = ['quantizer', *args]
    try:
        runpy.run_module('quantizer', run_name='__main__')
    except SystemExit as e:
        return e.code or 0
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


def child(job, rank, port, before):
    "What a forked process does; it does not return"
    os.chdir(job['cwd'])
    said = os.open('said.txt', os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(said, 1)
    os.dup2(said, 2)
    sys.stdout = sys.stderr = os.fdopen(said, 'w', buffering=1)
    if job.get('world', 1) > 1:
        join_others(rank, job['world'], port)
    if job.get('whisper'):
        small_whisper(job['whisper'])
    if before:
        before(rank)
    code = command(job['args'])
    sys.stdout.flush()
    os._exit(code)


def run(job, before=None):
    "Run a job, with `before` in each process; their exit codes, or minus the signals that ended them"
    port = free_port()
    pids = []
    for rank in range(job.get('world', 1)):
        pid = os.fork()
        if not pid:
            child(job, rank, port, before)
        pids.append(pid)
    codes = {}
    while len(codes) < len(pids):
        pid, status = os.wait()
        codes[pid] = os.waitstatus_to_exitcode(status)
        if codes[pid]:  # the others would wait for it
            end_others([o for o in pids if o not in codes])
    return [codes[o] for o in pids]


def end_others(pids, wait_s=10):
    "Kill processes that do not end by themselves"
    until = time.time()+wait_s
    while time.time() < until and any(Path(f'/proc/{o}/stat').read_text().split()[2] != 'Z' for o in pids):
        time.sleep(0.1)
    for o in pids:
        os.kill(o, signal.SIGKILL)


def draw_nothing():
    "Leave the pictures of reports empty: they take longer than these trainings, and nobody looks at them"
    figure = importlib.import_module('matplotlib.figure')
    figure.Figure.savefig = lambda *args, **kwargs: None


if __name__ == '__main__':
    torch.set_num_threads(1)
    for o in ('quantizer.all', 'torch._dynamo'):  # an optimizer wants the other one
        importlib.import_module(o)
    draw_nothing()
    print('ready', flush=True)
    for line in sys.stdin:
        print(json.dumps(run(json.loads(line))), flush=True)
    os._exit(0)  # at once
