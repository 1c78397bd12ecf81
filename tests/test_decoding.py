"The standard decoding is that of openai-whisper; golden_decoding.json is by make_golden_decoding.py"
import json
import os
from pathlib import Path

import pytest
import soundfile
import torch
from quantizer.data.encoders import WhisperEncoder
from quantizer.whisper.decoding import compression_ratio
from quantizer.whisper.teacher import WhisperTeacher

GOLDEN = json.loads(Path(__file__).with_name('golden_decoding.json').read_text())
needs_data = pytest.mark.skipif('QUANTIZER_DATA' not in os.environ,
                                reason='set QUANTIZER_DATA to a folder with models/whisper-tiny.en and data/dev')


@pytest.fixture(scope='module')
def tiny():
    return str(Path(os.environ['QUANTIZER_DATA'])/'models/whisper-tiny.en')


@needs_data
def test_suppressed(tiny):
    "The same tokens are never taken"
    assert WhisperTeacher(tiny).suppressed_tokens() == GOLDEN['suppressed']


@needs_data
@pytest.mark.slow
def test_transcripts(tiny):
    "Texts, temperatures and log-probabilities of openai-whisper, in one batch; three of five fail at all temperatures"
    encoder, teacher = WhisperEncoder(tiny, pad=True), WhisperTeacher(tiny)
    folder = Path(os.environ['QUANTIZER_DATA'])/'data/dev'
    wavs = [torch.from_numpy(soundfile.read(folder/o, dtype='float32')[0]) for o in GOLDEN['transcripts']]
    states = torch.cat([encoder.encode(o[None], torch.tensor([len(o)])) for o in wavs])
    for found, expected in zip(teacher.decode(states), GOLDEN['transcripts'].values()):
        assert (found.text, found.temperature) == (expected['text'], expected['temperature'])
        assert abs(found.logprob-expected['logprob']) < 1e-3


def test_compression():
    "No text does not repeat itself; a loop does"
    assert compression_ratio('') == 0
    assert compression_ratio('no '*100) > 2.4 > compression_ratio('The quick brown fox jumps over the lazy dog.')
