"""Transcripts of openai-whisper for test_decoding.py: writes golden_decoding.json

    python tests/make_golden_decoding.py   # where openai-whisper 20250625, safetensors and soundfile are installed

QUANTIZER_DATA names the folder with models/whisper-tiny.en and data/dev. The samples at temperatures above 0 are drawn
with the random numbers of quantizer/whisper/decoding.py. All else is openai-whisper's `transcribe`."""
import json
import os
import re
import zlib
from pathlib import Path

import numpy as np
import soundfile
import torch
import whisper
import whisper.decoding
from safetensors.torch import load_file
from whisper.model import ModelDimensions, Whisper

DATA = Path(os.environ['QUANTIZER_DATA'])
RECORDINGS = ['librispeech/40-121026-0000.flac', 'librispeech/7800-283478-0000.flac', 'fsdd/2_george_0.flac',
              'fsdd/7_george_0.flac', 'prompts/fr_june_dir-nomore.flac']
NAMES = [('^model.', ''), ('.layers.', '.blocks.'), ('fc1', 'mlp.0'), ('fc2', 'mlp.2'), ('final_layer_norm', 'mlp_ln'),
         ('encoder_attn_layer_norm', 'cross_attn_ln'), ('self_attn_layer_norm', 'attn_ln'),
         ('encoder_attn', 'cross_attn'), ('self_attn', 'attn'), ('q_proj', 'query'), ('k_proj', 'key'),
         ('v_proj', 'value'), ('out_proj', 'out'), ('embed_positions.weight', 'positional_embedding'),
         ('embed_tokens', 'token_embedding'), ('encoder.layer_norm', 'encoder.ln_post'),
         ('decoder.layer_norm', 'decoder.ln')]


def openai_name(name):
    "The name that openai-whisper gives a weight"
    for theirs, ours in NAMES:
        name = re.sub(theirs.replace('.', r'\.'), ours, name)
    return name


def load_model():
    "Whisper tiny.en, from weights with the names of Hugging Face"
    model = Whisper(ModelDimensions(80, 1500, 384, 6, 4, 51864, 448, 384, 6, 4))
    weights = load_file(DATA/'models/whisper-tiny.en/model.safetensors')
    model.load_state_dict({openai_name(k): v.float() for k, v in weights.items() if not k.startswith('proj_out')})
    return model.eval()


class Stream:
    "Draws with the random numbers of a recording; they depend on the transcript that failed"
    text, rng = '', None

    def __init__(self, logits):
        self.logits = logits

    def sample(self):
        noise = Stream.rng.standard_exponential(self.logits.shape[1], dtype=np.float32)[None]
        return (self.logits-torch.from_numpy(noise).clamp(min=1e-30).log()).argmax(1)


def decode(plain, mel, options):
    "Decode a window, with random numbers for this attempt"
    Stream.rng = np.random.default_rng([0, 0, zlib.crc32(Stream.text.encode())])
    result = plain(mel, options)
    Stream.text = result.text
    return result


def main():
    model = load_model()
    plain, whisper.decoding.Categorical = model.decode, Stream
    model.decode = lambda mel, options: decode(plain, mel, options)
    options = dict(language='en', without_timestamps=True, fp16=False)
    task = whisper.decoding.DecodingTask(model, whisper.DecodingOptions(**options))
    found = {}
    for path in RECORDINGS:
        Stream.text = ''
        wav = whisper.pad_or_trim(soundfile.read(DATA/'data/dev'/path, dtype='float32')[0])
        segment, = whisper.transcribe(model, wav, **options)['segments']
        found[path] = dict(text=segment['text'].strip(), logprob=segment['avg_logprob'], temperature=segment['temperature'])
    golden = dict(suppressed=[*task._get_suppress_tokens()], transcripts=found)
    Path(__file__).with_name('golden_decoding.json').write_text(json.dumps(golden, indent=1, ensure_ascii=False)+'\n')


if __name__ == '__main__':
    main()
