"""The words of the tiny world, its fact table and its one order of size: constants that no seed changes."""

CATEGORIES: dict[str, tuple[str, ...]] = {  # alphabetical within each: "the first two fruits" is well defined
    "fruits": ("apple", "banana", "cherry", "grape", "lemon", "pear"),
    "animals": ("bear", "camel", "deer", "fox", "goat", "lion", "owl", "wolf"),
    "tools": ("axe", "drill", "hammer", "rake", "saw", "shovel"),
    "clothes": ("boot", "coat", "dress", "hat", "scarf", "shirt"),
    "drinks": ("cider", "cocoa", "coffee", "juice", "milk", "tea"),
    "vehicles": ("boat", "bus", "car", "plane", "train", "truck"),
}
NOUNS: tuple[str, ...] = tuple(word for words in CATEGORIES.values() for word in words)
CATEGORY_OF: dict[str, str] = {word: category for category, words in CATEGORIES.items() for word in words}
ANIMALS = CATEGORIES["animals"]

ATTRIBUTES: dict[str, tuple[str, ...]] = {
    "color": ("black", "brown", "gray", "red", "white", "yellow"),
    "home": ("cave", "desert", "farm", "forest", "hill", "tree"),
    "food": ("bread", "fish", "grass", "honey", "meat", "seeds"),
}
FACTS: dict[str, dict[str, str]] = {
    "bear": {"color": "brown", "home": "cave", "food": "honey"},
    "camel": {"color": "yellow", "home": "desert", "food": "bread"},
    "deer": {"color": "brown", "home": "forest", "food": "grass"},
    "fox": {"color": "red", "home": "hill", "food": "fish"},
    "goat": {"color": "white", "home": "farm", "food": "grass"},
    "lion": {"color": "yellow", "home": "desert", "food": "meat"},
    "owl": {"color": "gray", "home": "tree", "food": "seeds"},
    "wolf": {"color": "black", "home": "forest", "food": "meat"},
}

AMOUNTS: dict[str, int] = {"one": 1, "two": 2, "three": 3, "four": 4, "five": 5}
LISTED, COUNTED = ("one", "two", "three"), ("three", "four", "five")  # amounts in a list's and in a count's questions
STEPS: dict[str, int] = {"up": 1, "down": -1}
NUMBERS: tuple[int, ...] = tuple(range(1, 41))
PREFIXES: tuple[str, ...] = ("Please help.", "Hello.", "Quick question.")
