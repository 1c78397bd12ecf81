"""Time and memory of the phonetic measures, and of DiscoPhon: `make bench-phonetic`, or
`python tests/bench_phonetic.py PYTHON [RATE CODES]`

`PYTHON` is that of an environment with discophon 0.2.0, which needs Python 3.12. Tokens are phones, half of them replaced by random codes, of the recordings with
an alignment in QUANTIZER_DATA, or of the sample. `ours` are the same four numbers, `everything` is `measure_phonetic`. Each
runs in a process of its own, twice: the second time is of compiled code."""
import json, os, random, resource, subprocess, sys, tempfile, time
from pathlib import Path

from make_golden_phonetic import SAMPLE, gold_phones

FOLDER = Path(os.environ['QUANTIZER_DATA'])/'data/dev' if 'QUANTIZER_DATA' in os.environ else SAMPLE

def make_codes(rate, size):
    "Codes of each recording, at a rate that divides 100 Hz"
    rng,codes = random.Random(0),{}
    gold = gold_phones(FOLDER)
    number = {phone:i for i,phone in enumerate(sorted({phone for o in gold.values() for phone in o}))}
    for id,phones in gold.items():
        known = [number[phone] for phone in phones[::100//rate]]
        codes[id] = [code if rng.random() < 0.5 else rng.randrange(size) for code in known]
    return dict(token_rate=rate, codebook_size=size, codes=codes)

def objects(o):
    import quantizer
    from quantizer.evaluate.alignments import Alignments
    from quantizer.tokens.token_set import Tokens
    return Tokens(o['codes'], o['token_rate'], o['codebook_size']), Alignments.load(FOLDER/'alignments.tsv')

def everything(o):
    "All measures, with chance levels and a thousand draws of recordings"
    from quantizer.evaluate.phonetic import measure_phonetic
    given = objects(o)
    def run():
        measures = measure_phonetic(*given)
        return {k:measures[k].value for k in ('pnmi','per','boundary_f1','boundary_r')}
    return run

def ours(o):
    "The four numbers of DiscoPhon"
    from quantizer.evaluate.phonetic import AlignedTokens, pnmi, renumber
    given = objects(o)
    def run():
        aligned = AlignedTokens(*given)
        units = renumber(*aligned.codes.T)
        errors = aligned.phone_errors(units, resamples=1)
        return dict(pnmi=pnmi(units[aligned.token], aligned.phone), **{k:errors[k].value for k in ('per','boundary_f1','boundary_r')})
    return run

def theirs(o):
    from discophon.evaluate import phoneme_discovery
    gold = gold_phones(FOLDER)
    n = len({phone for o in gold.values() for phone in o})-1
    return lambda: phoneme_discovery(o['codes'], gold, kind='many-to-one', n_units=o['codebook_size'], n_phonemes=n, step_units=1000//o['token_rate'])

def time_twice(run, **labels):
    "Print time, peak memory and values of `run`, twice: the second time is of compiled code"
    for _ in range(2):
        wall,cpu = time.perf_counter(),time.process_time()
        values = run()
        cpu,wall = time.process_time()-cpu,time.perf_counter()-wall
        print(json.dumps(dict(labels, cpu_s=round(cpu, 2), wall_s=round(wall, 2),
            peak_mb=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss//1024, **values)), flush=True)

def measure(who, path):
    time_twice(globals()[who](json.loads(Path(path).read_text())), who=who)

if __name__ == '__main__':
    if sys.argv[1] in ('ours','everything','theirs'): measure(*sys.argv[1:])
    else:
        rate,size = (int(o) for o in (sys.argv[2:] or ('50','256')))
        with tempfile.TemporaryDirectory() as d:
            path = Path(d)/'codes.json'
            path.write_text(json.dumps(make_codes(rate, size)))
            for who,python in dict(ours=sys.executable, everything=sys.executable, theirs=sys.argv[1]).items():
                subprocess.run([python, '-W', 'ignore', __file__, who, path], check=True)
