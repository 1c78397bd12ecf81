"The command, run in this process"
from quantizer.app.cli import main

def run(capsys, *args):
    "Exit code, standard output, standard error"
    code = main([str(o) for o in args])
    return (code, *capsys.readouterr())

def refused(capsys, *args):
    "The one line of a mistake"
    code,_,err = run(capsys, *args)
    assert code == 1 and err.count('\n') == 1 and err.startswith('quantizer: '), (code, err)
    return err
