"Masked and contrastive prediction from the command line: a packaged config with one more loss"
import pandas as pd, pytest
from safetensors.torch import load_file
from quantizer.app.cli import main
from quantizer.core.errors import QuantizerError
from quantizer.all import Tokenizer, load_config

SMALL = ['model.encoder.width=16', 'model.decoder.width=16', 'model.quantizer.codebook_size=16', 'train.epochs=2']
MASKED = 'model.losses={mse: 1.0, commitment: 0.25, masked_prediction: 1.0}'
CASES = dict(
    random=('masked_prediction', [MASKED, 'model.masking={width: 16, layers: 1, codebook_size: 32}', 'train.checkpoint.monitor=valid_masked_accuracy']),
    own=('masked_prediction', [MASKED, 'model.masking={targets: own, width: 16, layers: 1, decay: 0.9}']),
    contrastive=('contrastive', ['model.losses={mse: 1.0, commitment: 0.25, contrastive: 1.0}', 'model.contrastive.width=16', 'train.checkpoint.monitor=valid_contrastive']))

@pytest.mark.parametrize('case', CASES)
def test_run(tmp_path, case):
    "The loss falls, a longer run continues with the state of the objective, and the tokenizer knows nothing of it"
    loss,changes = CASES[case]
    run = tmp_path/'run'
    assert main(['train', 'mfcc-vq', *SMALL, *changes, '--out', str(run)]) == 0
    assert main(['train', '--resume', '--out', str(run), 'train.epochs=3', '--override']) == 0
    log = pd.read_csv(run/'log.csv')
    losses = log[f'valid_{loss}']
    assert len(losses) == 3 and losses.iloc[-1] < losses.iloc[0]
    last = max((run/'checkpoints').glob('step*'))
    state = load_file(last/'model.safetensors')
    assert any(k.startswith('objectives.0.') for k in state)
    if case == 'own':
        assert state['objectives.0.targets.updates'] == int(last.name.split('-')[1])
    assert not any(k.startswith('objectives') for k in Tokenizer.load(run).model.state_dict())
    assert main(['train', 'mfcc-vq', *SMALL, *changes, f'train.init_from={run}', '--out', str(tmp_path/'next')]) == 0

@pytest.mark.parametrize('changes,said', [
    (['model.losses.masked_predictions=1.0'], "no loss is called 'masked_predictions' (did you mean 'masked_prediction'?)"),
    (['model.masking={span: 5}'], "'model.masking' is given, and 'model.losses' has none of its losses: masked_prediction"),
    ([MASKED, 'model.masking={spam: 5}'], "unknown key 'model.masking.spam' (did you mean 'span'?)"),
    ([MASKED, 'model.masking={targets: hubert}'], "'model.masking.targets' is 'hubert'"),
    ([MASKED, 'model.masking={start: 0}'], "'model.masking.start' is 0"),
    ([MASKED, 'model.masking={span: 0}'], "'model.masking.span' is 0"),
    ([MASKED, 'model.masking={decay: 1}'], "'model.masking.decay' is 1"),
    ([MASKED, 'model.masking={width: 100}'], "'model.masking.width' is 100: expected a multiple of 8"),
    ([MASKED, 'model.masking={targets: own}', 'train.phases=[{epochs: 1}, {epochs: 1, codebook_size: 512}]'], "the codebook grows in 'train.phases'"),
    (['model.losses.contrastive=1.0', 'model.contrastive={steps: 0}'], "'model.contrastive.steps' is 0"),
    (['model.losses.contrastive=1.0', 'model.contrastive={temperature: 0}'], "'model.contrastive.temperature' is 0"),
    (['model.losses.contrastive=1.0', 'model.contrastive={negatives: -3}'], "'model.contrastive.negatives' is -3")])
def test_mistakes(changes, said):
    with pytest.raises(QuantizerError) as e: load_config('mfcc-vq', changes)
    assert said in str(e.value) and '\n' not in str(e.value)
