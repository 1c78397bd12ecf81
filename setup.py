"Metadata lives in settings.ini: edit there, not here"
import setuptools
from configparser import ConfigParser
from pathlib import Path

cp = ConfigParser(delimiters=['=']); cp.read('settings.ini', encoding='utf-8')
cfg = cp['DEFAULT']
lib = cfg['lib_path']

setuptools.setup(name=cfg['lib_name'], version=cfg['version'], author=cfg['author'], author_email=cfg['author_email'],
    keywords=cfg['keywords'], long_description=Path('README.md').read_text(encoding='utf-8'), long_description_content_type='text/markdown',
    packages=setuptools.find_packages(include=[lib, f'{lib}.*']), include_package_data=False,
    package_data={lib: ['configs/*.yaml', 'sample/**/*', 'app/assets/**/*']},
    install_requires=cfg['requirements'].split(),
    extras_require={o: cfg[f'{o}_requirements'].split() for o in ('dev', 'docs', 'encoders', 'datasets', 'torchcodec', 'ray', 'tensorboard', 'wandb', 'sound', 'bench')},
    entry_points=dict(console_scripts=cfg['console_scripts'].split(), nbdev=[f'{lib}={lib}._modidx:d']))
