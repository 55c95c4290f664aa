"""Training data: pairs of a cloudy and a clear view of the same ground, and patches drawn from them.

| what | where |
|---|---|
| pairs, mixtures of pairs, patches | `pairs` |
| RICE, CUHK-CR on disk | `readers.open_dataset`; `layouts`, `imagefile`, `inspection` beneath |
| what is wrong with a copy of them | `check.check_folder`, `duplicates` |
| which pair trains and which tests | `splits` |
| real clouds over a clear date | `transplant` |
"""
