"""The scores that the thesis published, to set ours beside.

Hesse and Löf, Self-Supervised Learning of Musical Representations Using VICReg
(Chalmers, 2023): tables 4.1 (section 4.3), A.1 and A.2 (appendix A), B.1 and
B.2 (appendix B). All are percent on MagnaTagATune's (MTAT) test split, of
probes on frozen encoders; "linear" is the single-layer head, "mlp" the
two-layer head, in parentheses there. Figure B.3's grid was published only as
colours, so its values are not here.

A scores value is {"linear": {"roc_auc": 87.52, "pr_auc": 33.40}, "mlp": ...}; a
head without a published value is absent.

Some settings have other scores in other tables, so those were not one run:
VICReg on FMA for 8,000 epochs (4.1; A.1) and for 1,000 epochs (A.1; A.2 and
B.1; B.2), and CLMR on FMA for 1,000 epochs (A.1; A.2 and B.2).
"""

import re


def _scores(row):
  """Scores of a row: ROC-AUC and PR-AUC, two-layer head in parentheses."""
  cells = re.findall(r"(\d+\.\d+)(?: \((\d+\.\d+)\))?", row)
  return {
    head: {"roc_auc": float(roc_auc), "pr_auc": float(pr_auc)}
    for head, (roc_auc, pr_auc) in zip(("linear", "mlp"), zip(*cells))
    if roc_auc
  }


# Keys: (method, data set of the pretraining). VICReg had 8,000 epochs on GTZAN
# and FMA and 3,000 on MTAT, CLMR ("CLMR (r)" there: the thesis's own runs) 300
# on FMA and 3,000 on GTZAN. SampleCNN is trained supervised, and its scores are
# cited too (from reference 49), but it is the encoder of all the other rows.
TABLE_4_1 = {
  ("SampleCNN", "MTAT"): _scores("88.6  34.4"),
  ("CLMR", "GTZAN"): _scores("83.47 (85.02)  27.20 (28.89)"),
  ("CLMR", "FMA"): _scores("87.52 (88.12)  33.40 (33.83)"),
  ("VICReg", "GTZAN"): _scores("80.56 (81.33)  23.26 (23.32)"),
  ("VICReg", "MTAT"): _scores("87.86 (88.87)  34.84 (35.28)"),
  ("VICReg", "FMA"): _scores("87.78 (89.15)  34.71 (35.85)"),
}

# Rows of table 4.1 that others measured: MusicCNN, supervised on spectrograms
# (89.0 in the table, 89.1 in the text beside it), and the CLMR paper's best.
CITED = {
  ("MusicCNN", "MTAT"): _scores("89.0  34.9"),
  ("CLMR", "MSD"): _scores("88.7 (89.3)  35.6 (36.0)"),
}

# Keys: (method, epochs on FMA). Figure 4.1.
TABLE_A_1 = {
  ("CLMR", 300): _scores("87.52 (88.12)  33.40 (33.83)"),
  ("CLMR", 1000): _scores("86.83 (87.47)  31.88 (32.55)"),
  ("CLMR", 3000): _scores("86.69 (87.41)  31.46 (32.26)"),
  ("CLMR", 5000): _scores("86.75 (87.39)  31.70 (32.43)"),
  ("CLMR", 8000): _scores("86.22 (87.48)  31.33 (32.73)"),
  ("VICReg", 300): _scores("87.08 (88.19)  32.24 (33.55)"),
  ("VICReg", 1000): _scores("87.02 (88.35)  32.79 (33.95)"),
  ("VICReg", 3000): _scores("87.73 (88.65)  33.88 (34.80)"),
  ("VICReg", 5000): _scores("87.96 (88.96)  34.40 (35.49)"),
  ("VICReg", 8000): _scores("87.93 (89.14)  34.64 (35.47)"),
}

# Keys: (method, representation size), after 1,000 epochs on FMA. Figure 4.2.
TABLE_A_2 = {
  ("VICReg", 32): _scores("77.19 (84.40)  21.46 (27.14)"),
  ("VICReg", 64): _scores("81.08 (86.20)  25.03 (29.87)"),
  ("VICReg", 128): _scores("84.74 (87.01)  28.64 (31.20)"),
  ("VICReg", 256): _scores("86.24 (87.74)  30.87 (33.24)"),
  ("VICReg", 512): _scores("87.21 (88.37)  32.56 (34.03)"),
  ("CLMR", 32): _scores("83.01 (84.42)  26.47 (26.73)"),
  ("CLMR", 64): _scores("85.60 (86.32)  30.11 (30.75)"),
  ("CLMR", 128): _scores("86.26 (87.24)  30.77 (31.94)"),
  ("CLMR", 256): _scores("86.96 (87.71)  32.03 (32.81)"),
  ("CLMR", 512): _scores("87.07 (87.82)  32.46 (33.22)"),
}

# Keys: (batch size,), of VICReg after 1,000 epochs on FMA. Figure B.1.
TABLE_B_1 = {
  (64,): _scores("84.35 (85.30)  27.46 (28.80)"),
  (128,): _scores("86.01 (86.99)  29.63 (31.06)"),
  (256,): _scores("87.21 (87.88)  31.94 (33.15)"),
  (512,): _scores("87.11 (88.27)  31.88 (33.97)"),
  (768,): _scores("87.21 (88.37)  32.56 (34.03)"),
  (1024,): _scores("86.88 (88.21)  32.45 (34.01)"),
  (1280,): _scores("86.56 (88.29)  32.22 (34.14)"),
  (1536,): _scores("85.90 (88.32)  31.48 (34.20)"),
  (1792,): _scores("86.58 (88.26)  32.50 (34.27)"),
}

# Keys: (method, method whose projector it has), after 1,000 epochs on FMA.
TABLE_B_2 = {
  ("CLMR", "CLMR"): _scores("87.07 (87.82)  32.46 (33.22)"),
  ("CLMR", "VICReg"): _scores("86.81 (87.80)  31.94 (32.92)"),
  ("VICReg", "CLMR"): _scores("85.70  30.21"),
  ("VICReg", "VICReg"): _scores("86.97 (88.22)  32.82 (33.71)"),
}
