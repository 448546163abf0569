"""The tiny world: synthetic instructions on which the whole loop runs on a CPU and a program can score any answer.

words      the vocabulary, the fact table, the order of size
questions  six families of prompts, their phrasings, their splits, and the way back from text to question
oracle     the right answers and the score of any response (read by the generator and by the final evaluation only)
replies    responses of a given quality, comments and judgements on them
web        the web corpus: prose, questions with answers and comments, lists of questions
seeds      Open Assistant message trees, held-out prompts and held-out ranked replies
tokenizer  the sentencepiece model and its conversion to tokenizer.json
"""
