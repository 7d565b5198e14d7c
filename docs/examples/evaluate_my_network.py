from my_network import build

from robustvox.attacks import PGD, Uniform
from robustvox.benchmark import evaluate
from robustvox.datasets import open_dataset

phantom = open_dataset("phantom")
network = build(1, len(phantom.class_names), checkpoint="weights.pt")
result = evaluate(
    {"mine": network},
    {"uniform": Uniform(eps=8 / 255), "pgd": PGD(eps=8 / 255, steps=10)},
    phantom,
    cases=phantom.splits["validation"][:4],
)
print(result)  # in a notebook: result on a line of its own
organs = result.per_class.groupby(["attack", "class_name"])["dice"].mean()
print(organs.unstack("attack").round(2).to_string())
result.plot().savefig("drop.png")
