"""Conversations as text: the format on which each family of published chat models was trained.

A conversation is a list of messages, {"role": …, "content": text}. The role is "system" (what the
model is told before all else), "user", "assistant", or "tool" (the value that a tool returned). A
message of the assistant that calls tools has "tool_calls" besides: [{"name": …, "arguments":
{…}}, …]. A model answers well only in the format that it has learnt, to the letter; each function
below writes one, and ends with the words that begin an answer.
"""
import json
import random
import re
from datetime import date
from pathlib import Path

import torch
import torch.nn as nn

from mini.data.text.tables import read_rows, without_header
from mini.utils.config import UserError, require, require_file

MONTHS = "Jan Feb Mar Apr May Jun Jul Aug Sep Oct Nov Dec".split()


# ---- the formats

def plain(messages: list, tools=None) -> str:
    """For a model that was not made for conversations: a line for each message. After fine-tuning
    on such lines it answers in one."""
    no_tools(tools, "plain")
    names = {"system": "", "user": "Question: ", "assistant": "Answer: "}
    lines = ["\n"]
    for message in messages:
        require(message["role"] in names, f"the plain format has no role {message['role']!r}")
        content = " ".join(message["content"].split())
        lines.append(f"{names[message['role']]}{content}\n")
    return "".join(lines) + "Answer:"


def tinyllama(messages: list, tools=None) -> str:
    """TinyLlama's chat models, as Zephyr before them."""
    no_tools(tools, "tinyllama")
    parts = [f"<|{message['role']}|>\n{message['content']}</s>\n" for message in messages]
    return "".join(parts) + "<|assistant|>\n"


def chatml(messages: list, default_system: str = "") -> str:
    """ChatML (OpenAI 2023): who speaks, in a line, then what is said, between two special tokens.
    Without an answer's beginning."""
    if default_system and messages[0]["role"] != "system":
        messages = [{"role": "system", "content": default_system}, *messages]
    return "".join(turn(message["role"], message["content"]) for message in messages)


def turn(role: str, content: str) -> str:
    return f"<|im_start|>{role}\n{content}<|im_end|>\n"


def smollm2(messages: list, tools=None) -> str:
    no_tools(tools, "smollm2")
    default = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"
    return chatml(messages, default) + "<|im_start|>assistant\n"


def qwen2_5(messages: list, tools=None) -> str:
    """Qwen 2.5. Tools are described in the system message; several values in a row that tools have
    returned make one message of the user."""
    system, others = split_system(messages)
    if system is None:
        system = "You are Qwen, created by Alibaba Cloud. You are a helpful assistant."
    if tools:
        system += "\n\n" + qwen_tools(tools)
    text = turn("system", system)
    for i, message in enumerate(others):
        content = message["content"]
        if message["role"] == "tool":
            text += qwen_tool_value(others, i)
            continue
        for call in message.get("tool_calls", []):
            content += "\n" + qwen_call(call)
        content = content.removeprefix("\n")                # a call alone begins on the first line
        text += turn(message["role"], content)
    return text + "<|im_start|>assistant\n"


def qwen3(messages: list, tools=None, thinking: bool = False) -> str:
    """Qwen 3. It has no system message of its own. It can think aloud before it answers, <think> …
    </think>, which takes hundreds of tokens; unless `thinking`, an empty thought is put into its
    mouth. Thoughts about earlier questions are left out."""
    system, others = split_system(messages)
    text = ""
    if tools:
        before = "" if system is None else f"{system}\n\n"
        text = turn("system", before + qwen_tools(tools))
    elif system is not None:
        text = turn("system", system)
    asked = [i for i, message in enumerate(others) if message["role"] == "user"]
    last_question = asked[-1] if asked else len(others)
    for i, message in enumerate(others):
        content = message["content"]
        if message["role"] == "tool":
            text += qwen_tool_value(others, i)
            continue
        if message["role"] == "assistant":
            thought, _, said = content.rpartition("</think>")
            content = said.lstrip("\n") if thought else content
            thought = thought.split("<think>")[-1].strip("\n")
            if thought and i > last_question:
                content = f"<think>\n{thought}\n</think>\n\n{content}"
        for call in message.get("tool_calls", []):
            content += ("\n" if content else "") + qwen_call(call)
        text += turn(message["role"], content)
    text += "<|im_start|>assistant\n"
    return text if thinking else text + "<think>\n\n</think>\n\n"


def qwen_tools(tools: list) -> str:
    """The part of the system message that describes the tools."""
    lines = "\n".join(json.dumps(tool, ensure_ascii=False) for tool in tools)
    return ("# Tools\n\nYou may call one or more functions to assist with the user query.\n\nYou "
            "are provided with function signatures within <tools></tools> XML tags:\n<tools>\n"
            f"{lines}\n</tools>\n\nFor each function call, return a json object with function name "
            "and arguments within <tool_call></tool_call> XML tags:\n<tool_call>\n"
            '{"name": <function-name>, "arguments": <args-json-object>}\n</tool_call>')


def qwen_call(call: dict) -> str:
    arguments = json.dumps(call["arguments"], ensure_ascii=False)
    return f'<tool_call>\n{{"name": "{call["name"]}", "arguments": {arguments}}}\n</tool_call>'


def qwen_tool_value(messages: list, i: int) -> str:
    """What message number i, of a tool, adds to the text."""
    text = f"\n<tool_response>\n{messages[i]['content']}\n</tool_response>"
    if i == 0 or messages[i - 1]["role"] != "tool":
        text = "<|im_start|>user" + text
    if i + 1 == len(messages) or messages[i + 1]["role"] != "tool":
        text += "<|im_end|>\n"
    return text


def llama3(messages: list, tools=None, today: str = "") -> str:
    """Llama 3.1 and 3.2. The system message tells the date; tools are described in the first
    question. today: like "26 Jul 2024" ("": what the clock says)."""
    if not today:
        now = date.today()
        today = f"{now.day:02} {MONTHS[now.month - 1]} {now.year}"
    system, others = split_system(messages)
    environment = "Environment: ipython\n" if tools else ""
    text = "<|begin_of_text|>" + llama3_turn(
        "system", f"{environment}Cutting Knowledge Date: December 2023\nToday Date: {today}\n\n"
                  f"{(system or '').strip()}")
    if tools:
        require(others and others[0]["role"] == "user",
                "tools are described in the first question, and there is none")
        described = "".join(json.dumps(tool, indent=4, ensure_ascii=False) + "\n\n"
                            for tool in tools)
        text += llama3_turn(
            "user", "Given the following functions, please respond with a JSON for a function call "
                    "with its proper arguments that best answers the given prompt.\n\nRespond in "
                    'the format {"name": function name, "parameters": dictionary of argument name '
                    f"and its value}}.Do not use variables.\n\n{described}"
                    f"{others[0]['content'].strip()}")
        others = others[1:]
    for message in others:
        calls = message.get("tool_calls", [])
        require(len(calls) < 2, "Llama 3 calls one tool at a time")
        if calls:
            arguments = json.dumps(calls[0]["arguments"], ensure_ascii=False)
            text += llama3_turn("assistant",
                                f'{{"name": "{calls[0]["name"]}", "parameters": {arguments}}}')
        elif message["role"] == "tool":
            text += llama3_turn("ipython", json.dumps(message["content"], ensure_ascii=False))
        else:
            text += llama3_turn(message["role"], message["content"].strip())
    return text + "<|start_header_id|>assistant<|end_header_id|>\n\n"


def llama3_turn(role: str, content: str) -> str:
    return f"<|start_header_id|>{role}<|end_header_id|>\n\n{content}<|eot_id|>"


def split_system(messages: list):
    """(the system message's text, or None if the first message is none; all other messages)."""
    if messages and messages[0]["role"] == "system":
        return messages[0]["content"], messages[1:]
    return None, messages


def no_tools(tools, name: str):
    require(not tools, f"the format {name} has no tools; take a model of Qwen 2.5, Qwen 3 or "
                       "Llama 3.2")


FORMATS = {"plain": plain, "tinyllama": tinyllama, "smollm2": smollm2, "qwen2.5": qwen2_5,
           "qwen3": qwen3, "llama3": llama3}
WITH_TOOLS = ("qwen2.5", "qwen3", "llama3")

# With which tokens an answer ends
ENDS = {"plain": ("\n",), "tinyllama": ("</s>",), "smollm2": ("<|im_end|>", "<|endoftext|>"),
        "qwen2.5": ("<|im_end|>", "<|endoftext|>"), "qwen3": ("<|im_end|>", "<|endoftext|>"),
        "llama3": ("<|eot_id|>", "<|eom_id|>", "<|end_of_text|>")}

# Words of a published template (in the language Jinja) by which we know it. We do not run it: its
# text is code of a stranger's.
SIGNS = (("llama3", "Cutting Knowledge Date: December 2023"),
         ("qwen3", "enable_thinking"),
         ("qwen2.5", "You are Qwen, created by Alibaba Cloud. You are a helpful assistant."),
         ("smollm2", "You are a helpful AI assistant named SmolLM, trained by Hugging Face"),
         # others (Tulu) begin alike, but have no eos_token behind what the user says
         ("tinyllama", "'<|user|>\n' + message['content'] + eos_token"))


def format_of_folder(folder) -> str:
    """The name of the format in which a published model converses; "plain" if it was not made for
    that. Raises UserError for one that is not known here."""
    folder = Path(folder)
    template = None
    if (folder / "chat_template.jinja").exists():
        require_file(folder / "chat_template.jinja")
        template = (folder / "chat_template.jinja").read_text("utf-8", errors="replace")
    elif (folder / "tokenizer_config.json").exists():
        path = folder / "tokenizer_config.json"
        require_file(path)
        try:
            template = json.loads(path.read_text("utf-8")).get("chat_template")
        except (ValueError, AttributeError, RecursionError):
            raise UserError(f"{path}: not a configuration in JSON; fetch it again") from None
    if template is None:
        return "plain"
    for name, sign in SIGNS:
        if sign in str(template):
            return name
    raise UserError(f"{folder}: its chat template is none of {', '.join(FORMATS)}; take a model of "
                    "one of these families, or remove the template to use it without conversations")


# ---- from text to tokens

def format_of(tokenizer) -> str:
    """The name of the format that goes with a tokenizer."""
    return getattr(tokenizer, "chat_format", "plain")


def encode_chat(messages: list, tokenizer, tools=None) -> list:
    """The tokens of a conversation, up to those that begin the next answer."""
    text = FORMATS[format_of(tokenizer)](messages, tools)
    return tokenizer.encode(text)


def stop_tokens(tokenizer) -> tuple:
    """The numbers of the tokens with which an answer ends."""
    numbers = [tokenizer.encode(end) for end in ENDS[format_of(tokenizer)]]
    return tuple(number[0] for number in numbers if len(number) == 1)


def fit_chat(messages: list, tokenizer, longest: int, tools=None) -> list:
    """The tokens of a conversation, without its oldest questions and answers if all would be more
    than `longest` tokens. The system message stays. Raises UserError if the last question alone is
    too long."""
    system, others = messages[:1], messages[1:]
    if messages[0]["role"] != "system":
        system, others = [], messages
    while True:
        ids = encode_chat([*system, *others], tokenizer, tools)
        if len(ids) <= longest:
            return ids
        later = [i for i in range(1, len(others)) if others[i]["role"] == "user"]
        require(later, f"the question has {len(ids)} tokens with all that belongs to it, and there "
                       f"is room for {longest}: ask for less, raise --block_size, or lower "
                       "--max_new_tokens")
        others = others[later[0]:]                          # go on with the next question


HEADER = [{"question", "prompt", "input", "user"}, {"answer", "response", "output", "assistant"}]


def read_chats(path):
    """(to learn from, held out), each [(question, answer), …], of a file with lines of question,
    tab, answer. A tenth, drawn at random but always the same, is held out."""
    require_file(path, f"--chats={path}: no such file; it should have lines of question, tab, "
                       "answer")
    chats = []
    for number, columns in without_header(read_rows(path), HEADER, path):
        require(len(columns) == 2 and all(columns),
                f"{path}, line {number}: not question, tab, answer")
        chats.append(tuple(columns))
    require(len(chats) > 1, f"{path}: {len(chats)} lines of question, tab, answer; bring two or "
                            "more, since some are held out")
    random.Random(0).shuffle(chats)
    n_val = max(1, len(chats) // 10)
    return chats[n_val:], chats[:n_val]


def chat_rows(chats: list, tokenizer, T: int, ignored: int, device):
    """x and y (N, T') of questions and answers. y holds the next token where the answer stands, and
    at its end; everywhere else it is `ignored`, and x is filled up with token 0."""
    end = ENDS[format_of(tokenizer)][0]
    x = []
    y = []
    for question, answer in chats:
        messages = [{"role": "user", "content": question}]
        prompt = FORMATS[format_of(tokenizer)](messages)
        space = " " if format_of(tokenizer) == "plain" else ""
        before = tokenizer.encode(prompt)
        ids = tokenizer.encode(f"{prompt}{space}{answer}{end}")
        n_before = 0                                        # tokens that are as without the answer
        while n_before < len(before) and before[n_before] == ids[n_before]:
            n_before += 1
        if len(ids) <= T + 1:
            targets = [ignored] * n_before + ids[n_before:]
            x.append(torch.tensor(ids[:-1]))
            y.append(torch.tensor(targets[1:]))
    require(x, f"all of {len(chats)} answers are longer than {T} tokens, with their questions: "
               "raise --block_size")
    if len(x) < len(chats):
        print(f"note: {len(chats) - len(x)} of {len(chats)} answers are left out: with their "
              f"questions they have more than {T} tokens")
    pad = nn.utils.rnn.pad_sequence
    x = pad(x, batch_first=True)
    y = pad(y, batch_first=True, padding_value=ignored)
    return x.to(device), y.to(device)


# ---- tools

def describe_tool(name: str, description: str, **parameters: str) -> dict:
    """A tool as these models expect it; parameters: what each argument, a text, is."""
    properties = {key: {"type": "string", "description": text} for key, text in parameters.items()}
    return {"type": "function", "function": {
        "name": name, "description": description,
        "parameters": {"type": "object", "properties": properties, "required": list(properties)}}}


def parse_tool_calls(text: str, chat_format: str) -> list:
    """The calls in an answer, [{"name": …, "arguments": {…}}, …]; [] if there is none, or none that
    can be read."""
    if chat_format == "llama3":                             # the answer is the call, and no more
        found = [text.strip().removeprefix("<|python_tag|>")]
    else:
        found = re.findall(r"<tool_call>(.*?)</tool_call>", text, re.DOTALL)
    calls = []
    for call in found:
        try:
            call = json.loads(call)
        except (ValueError, RecursionError):
            continue
        if isinstance(call, dict) and isinstance(call.get("name"), str):
            arguments = call.get("arguments", call.get("parameters", {}))
            if isinstance(arguments, dict):
                calls.append({"name": call["name"], "arguments": arguments})
    return calls


def answer_with_tools(reply, messages: list, tools: list, run, chat_format: str, most: int = 5):
    """(answer, [(call, its value), …]): the model's calls are run, and it is told their values,
    until it answers without a call, or calls again after `most` of them or more.

    reply(messages, tools) -> the model's next answer; run(name, arguments) -> the value of a call,
    as a text.
    """
    steps = []
    while True:
        answer = reply(messages, tools)
        calls = parse_tool_calls(answer, chat_format)
        if not calls or len(steps) >= most:
            return answer, steps
        said = "" if chat_format == "llama3" else answer.split("<tool_call>")[0].strip()
        messages = [*messages, {"role": "assistant", "content": said, "tool_calls": calls}]
        for call in calls:
            value = run(call["name"], call["arguments"])
            steps.append((call, value))
            messages.append({"role": "tool", "content": value})
