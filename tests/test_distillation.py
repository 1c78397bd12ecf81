"Tokens that learn to predict other features: the packaged config, without a network as target"
import json
import pandas as pd, pytest
from quantizer.app.cli import main
from quantizer.core.errors import QuantizerError
from quantizer.all import Tokenizer, load_config

TARGET = 'model.target={features: {name: logmel, n_mels: 20}}'
SMALL = [TARGET, 'model.encoder={name: conv, width: 16, downsample: 4}', 'model.decoder={name: conv, width: 16}', 'model.quantizer.codebook_size=16', 'train.epochs=2']

@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    out = tmp_path_factory.mktemp('distillation')/'run'
    assert main(['train', 'phonetic-mfcc', *SMALL, '--out', str(out)]) == 0
    return out

def test_run(trained):
    "The loss falls, the tokenizer knows nothing of the target, and k-means is measured beside it"
    log = pd.read_csv(trained/'log.csv')
    assert log.valid_distillation.iloc[-1] < log.valid_distillation.iloc[0]
    assert (trained/'targets').is_dir()
    best = json.loads((trained/'checkpoints/best/state.json').read_text())
    assert (best['monitor'], best['value']) == ('valid_distillation', log.valid_distillation.min())
    tokenizer = Tokenizer.load(trained)
    assert tokenizer.token_rate == 25 and not any('head' in o for o in tokenizer.model.state_dict())
    assert set(json.loads((trained/'measures.json').read_text())) == {'this run', 'k-means'}

def test_resume(trained):
    "A longer run goes on with the weights of the linear layer"
    assert main(['train', '--resume', '--out', str(trained), 'train.epochs=3', '--override']) == 0
    assert len(pd.read_csv(trained/'log.csv')) == 3

@pytest.mark.parametrize('inner', ['vq', '{name: vq, heads: 2}'])
def test_first_level(tmp_path, inner):
    "A residual quantizer whose first level predicts the target trains, resumes and is saved"
    changes = [*SMALL, f'model.quantizer={{name: residual, num_quantizers: 2, codebook_size: 16, quantizer: {inner}}}', 'model.target.levels=1']
    assert main(['train', 'phonetic-mfcc', *changes, '--out', str(tmp_path/'run')]) == 0
    assert main(['train', '--resume', '--out', str(tmp_path/'run'), 'train.epochs=3', '--override']) == 0
    log = pd.read_csv(tmp_path/'run/log.csv')
    assert log.valid_distillation.iloc[-1] < log.valid_distillation.iloc[0]
    assert Tokenizer.load(tmp_path/'run').num_codebooks == (4 if 'heads' in inner else 2)

@pytest.mark.parametrize('changes,said', [
    (['model.target=null'], "'model.target.features' is missing"),
    (['data.batching=crops'], "'data.batching' is 'crops', and 'distillation' is a loss of whole recordings"),
    (['model.target.features.name=nothing'], "no feature is called 'nothing'"),
    (['model.target.features.hop_length=240'], "66.6667 frames a second, and there are 25 tokens: expected a whole number"),
    (['data.live=true', 'data.augment={speed: [0.9, 1.0]}'], "'data.augment.speed' changes the time of a recording, and 'distillation'"),
    (['model.target.levels=1'], "'model.target.levels' is 1: only a residual quantizer has levels, and this is 'vq'"),
    (['model.quantizer={name: residual, num_quantizers: 2, codebook_size: 16}', 'model.target.levels=3'], "expected up to 2, the levels of the quantizer"),
    (['model.losses.distillation=null'], "model.target")])
def test_mistakes(changes, said):
    with pytest.raises(QuantizerError) as e: load_config('phonetic-mfcc', SMALL+changes)
    assert said in str(e.value) and '\n' not in str(e.value)
