"Voices out of the tokens: runs with a vector of the speaker, jitter and an adversary, from the command line"
import pandas as pd, pytest, torch
from quantizer.app.cli import main
from quantizer.core.errors import QuantizerError
from quantizer.all import Corpus, Tokenizer, load_config
from safetensors.torch import load_file

SMALL = ['model.encoder.width=16', 'model.decoder.width=16', 'model.quantizer.codebook_size=16', 'data.batch_size=64', 'train.epochs=2']
MEANS = ['model.speaker={dim: 8, width: 16}', 'model.jitter=0.12', 'model.losses.speaker_adversary=0.1']

@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    out = tmp_path_factory.mktemp('speaker')/'run'
    assert main(['train', 'mfcc-vq', *SMALL, *MEANS, '--out', str(out)]) == 0
    return out

def test_log(trained):
    "The adversary and its accuracy are logged"
    log = pd.read_csv(trained/'log.csv')
    assert log.train_speaker_adversary.notna().all() and log.train_speaker_accuracy.between(0, 1).all()

def test_reference(trained, tmp_path):
    "The tokenizer decodes in an average voice, or in that of another recording; it holds no adversary"
    tokenizer,corpus = Tokenizer.load(trained),Corpus.load('sample')
    a,b = (str(corpus.file(i)) for i in (0,100))
    codes = tokenizer.encode(a)
    average,other = tokenizer.decode(codes),tokenizer.decode(codes, b)
    assert average.shape == other.shape and not torch.allclose(average, other, atol=1e-3)
    assert torch.equal(tokenizer.decode([codes], reference=corpus.audio(100, 16000), sr=16000)[0], other)
    assert not any('objectives' in o for o in tokenizer.model.state_dict())
    assert main(['encode', str(trained), a, '--out', str(tmp_path/'t.safetensors')]) == 0
    for name,voice,expected in (('plain', [], average), ('other', ['--reference', b], other)):
        assert main(['decode', str(trained), str(tmp_path/'t.safetensors'), *voice, '--out', str(tmp_path/name)]) == 0
        torch.testing.assert_close(load_file(tmp_path/name/'features.safetensors')[a], expected)

def test_resume(trained):
    "A longer run goes on with the classifier and the average"
    assert main(['train', '--resume', '--out', str(trained), 'train.epochs=3', '--override']) == 0
    assert len(pd.read_csv(trained/'log.csv')) == 3

def test_one_voice(tmp_path, capsys):
    "A tokenizer without vectors of speakers refuses a reference in one line"
    assert main(['train', 'mfcc-vq', *SMALL, 'train.epochs=1', '--out', str(tmp_path/'run')]) == 0
    a = str(Corpus.load('sample').file(0))
    assert main(['encode', str(tmp_path/'run'), a, '--out', str(tmp_path/'t.safetensors')]) == 0
    capsys.readouterr()
    assert main(['decode', str(tmp_path/'run'), str(tmp_path/'t.safetensors'), '--reference', a, '--out', str(tmp_path/'d')]) == 1
    said = capsys.readouterr().err
    assert 'it has one voice: train with model.speaker={}' in said and said.count('\n') == 1

@pytest.mark.parametrize('changes,said', [
    (['model.speaker.dims=8'], "unknown key 'model.speaker.dims' (did you mean 'dim'?)"),
    (['model.speaker=yes'], "'model.speaker' is True: expected a block or null"),
    (['model.jitter=2'], "'model.jitter' is 2: expected a number from 0 to 1"),
    (['model.jiter=0.1'], "unknown key 'model.jiter' (did you mean 'jitter'?)"),
    (['model.losses.speaker_adversary=0.1', 'data.batching=packed'], "'data.batching' is 'packed'"),
    (['model.losses.speaker_adversary=0.1', 'model.adversary.width=0'], "'model.adversary.width' is 0: expected a whole number from 1 to 4096"),
    (['model.adversary.width=8'], "'model.losses' has none of its losses: speaker_adversary")])
def test_mistakes(changes, said):
    with pytest.raises(QuantizerError) as e: load_config('mfcc-vq', changes)
    assert said in str(e.value) and '\n' not in str(e.value)
