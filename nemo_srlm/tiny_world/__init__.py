"""The tiny world: synthetic instructions on which the whole loop runs on a CPU and a program can score any response.

words           the vocabulary, the fact table, the order of size
questions       six families of prompts: their phrasings, their splits, and parsing a prompt back to its question
oracle          the right answers and the score of any response (used by the generator and the final evaluation alone)
oracle_metrics  the final evaluation: metrics of a model's scored responses
replies         responses of a chosen quality, comments and judgements on them
web             the web corpus: prose, questions with responses and comments, lists of questions
seeds           Open Assistant message trees, held-out prompts and held-out ranked replies
tokenizer       the sentencepiece model and its conversion to tokenizer.json
files           the files of the stage `world` and their readers
held_out        what other stages need to know about the questions: held-out ones, families
"""
