"""A language model for the tests that says what it is told."""

from generation.base import Completion, GenerationError, PromptTooLongError


class Engine:
    """Answers by a function of the chat, unless it finds the chat too long, or has a reason not to answer it."""

    name = "scripted"
    batch_size = 4
    follows_schema = False

    def __init__(self, answer, refuses=lambda chat: False, fails=lambda chat: None):
        self.answer, self.refuses, self.fails = answer, refuses, fails
        self.batches, self.samplings, self.refused = [], [], []

    def generate(self, chats, sampling):
        for index, chat in enumerate(chats):
            if self.refuses(chat):
                self.refused.append(chat)
                raise PromptTooLongError(index, 99, 64, chat[-1]["content"])
        self.batches.append(chats)
        self.samplings.append(sampling)
        failures = {index: self.fails(chat) for index, chat in enumerate(chats) if self.fails(chat)}
        completions = {
            index: Completion(self.answer(chat), 10, 3, "stop")
            for index, chat in enumerate(chats)
            if index not in failures
        }
        if failures:
            raise GenerationError("some failed", failures, completions)
        return list(completions.values())

    @property
    def sizes(self):
        return [len(batch) for batch in self.batches]

    @property
    def asked(self):
        return [[chat[-1]["content"] for chat in batch] for batch in self.batches]
