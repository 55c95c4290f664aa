"""Training data: pairs of a cloudy and a clear view of the same ground, and patches drawn from them.

| what | where |
|---|---|
| pairs, mixtures of pairs, patches | `pairs` |
| RICE, CUHK-CR on disk, and which of their pairs trains and which tests | `readers.open_dataset`, `datasets` |
| what is wrong with a copy of them | `readers.check_folder` |
| real clouds over a clear date | `variation.transplant` |
| scenes of many places, and cases drawn from them | `archive`, `cases`, `variation` |
"""
