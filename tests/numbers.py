"""python -m tests.numbers: where the numbers on the pages come from.

Each line names a page, a number as it is written there, the result.json that it comes from and the key in it. The
program says whether the number, rounded as on the page, is the one in the file, and whether it stands on the page.
The result.json and evaluate.json files of our runs are kept in mini/gallery/results/; `python -m tests.numbers runs` reads those of
your own runs instead, so that you see how far another machine or seed differs.
"""
import json
import re
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
KEPT = ROOT / "mini" / "gallery" / "results"
GALLERY = "mini/gallery/README.md"
STUDIES = "mini/studies/README.md"

# page, number as written, perhaps with words around it that have no number, run, key. "a/b" is b in a; of
# several runs, with a *, it is the mean. A number with % is 100 times the value; so is one whose key ends with %.
NUMBERS = [
    ("README.md", "83 %", "attention_stories_GPT_*", "consistent"),
    ("README.md", "0.602", "attention_stories_LSTM_*", "test_loss"),
    ("README.md", "0.2045", "gpt", "val_loss"),
    ("README.md", "0.9699", "gpt", "kneser_ney"),
    ("README.md", "0.1981", "gpt", "test_loss"),
    ("README.md", "0.9360", "gpt", "test_kneser_ney"),
    ("README.md", "82.4%", "gpt", "consistent"),
    ("README.md", "on the same stories 0.1980", "llama", "test_loss"),
    ("README.md", "without a contradiction 81.2 %", "llama", "consistent"),
    (GALLERY, "test stories | 0.1980 |", "llama", "test_loss"),
    (GALLERY, "| 0.646 |", "llama_evaluate", "study/1. learned positions/test loss"),
    (GALLERY, "| 0.566 |", "llama_evaluate", "study/4. GELU/test loss"),
    (GALLERY, "| +0.022", "llama_evaluate", "study/1. learned positions/more than all five"),
    (GALLERY, "| 81.2 % |", "llama", "consistent"),
    (GALLERY, "with autoguidance | 15.4", "families", "rows/diffusion, groups, autoguidance/Fréchet distance"),
    (GALLERY, "of each image | 20.5", "families", "rows/diffusion, groups/Fréchet distance"),
    (GALLERY, "steps) | 17.5", "families", "rows/VAE/Fréchet distance"),
    (GALLERY, "(*latents*) | 6.9", "families", "rows/diffusion of latents/Fréchet distance"),
    (GALLERY, "z from a mixture | 17.9", "families", "rows/VAE for latents/Fréchet distance"),
    (GALLERY, "0.944 ± 0.003", "families", "rows/diffusion of latents/diversity"),
    (GALLERY, "0.918 ± 0.003", "families", "rows/VAE/diversity"),
    (GALLERY, "0.919 ± 0.006", "families", "rows/VAE for latents/diversity"),
    (GALLERY, "training images | 2.3 | 1.02", "families", "rows/training images/Fréchet distance"),
    (STUDIES, "0.93 ± 0.01; 17 of", "families_beta_1", "mean of latents/diversity"),
    ("README.md", "99.0 % (all", "finetune", "table/all/accuracy"),
    (GALLERY, "| everything | 61.8", "finetune_film_reviews_seed_1", "table/all/accuracy%"),
    (GALLERY, "naive Bayes | 59.8", "finetune_film_reviews_seed_1", "table/naive Bayes/accuracy%"),
    (GALLERY, "| everything | 73.7", "finetune_film_reviews_all", "table/all/accuracy%"),
    (GALLERY, "naive Bayes | 80.0", "finetune_film_reviews_all", "table/naive Bayes/accuracy%"),
    (GALLERY, "called short in 62 %", "clip_evaluate", "curly_style,_pink_background:_style_read_by_prompts/short"),
    ("README.md", "99.2 % (LoRA", "finetune", "table/lora/accuracy"),
    (GALLERY, "| 60.5", "finetune", "table/scratch/accuracy%"),
    ("README.md", "without any label 99.1 %", "finetune", "table/zero-shot/accuracy"),
    ("README.md", "naive Bayes 88.7 %", "finetune", "table/naive Bayes, EM/accuracy"),
    ("README.md", "Fréchet distance from real faces 19, with", "gan", "frechet"),
    ("README.md", "an untrained network 824", "gan", "frechet_untrained"),
    (STUDIES, "% | 95.4 |", "halves", "the same in both halves/generated/hair%"),
    (STUDIES, "the same style | 76.8", "halves", "the same in both halves/generated/style%"),
    (STUDIES, "the same glasses | 76.5", "halves", "the same in both halves/generated/glasses%"),
    (STUDIES, "colour of both eyes | 0.24", "halves", "varies/iris/correlation"),
    (STUDIES, "in a half | 1.32", "halves", "varies/tilt/half"),
    (STUDIES, "the same in the whole face | 0.52", "halves", "varies/tilt/whole"),
    (STUDIES, "mirror image, too | 96.8", "halves_mirror", "mirror/the same in both halves/hair%"),
    (STUDIES, "numbers | 96.3", "halves_mirror", "mirror, hidden, z 16/the same in both halves/hair%"),
    (STUDIES, "only the signs count | 96.4", "halves_mirror", "and signs/the same in both halves/hair%"),
    (STUDIES, "in G before its first | 95.2", "halves_mirror", "mirror, hidden layers in G/the same in both halves/hair%"),
    ("mini/README.md", "in both halves of 98 %", "halves_mirror", "mirror/the same in both halves/background%"),
    ("README.md", "other real faces 2.3", "gan", "frechet_floor"),
    ("README.md", "as asked for in 99.7 % to", "cgan", "accuracy/mouth"),
    ("README.md", "98 % are kept", "cyclegan", "scores/a → b/kept"),
    ("README.md", "new faces at 24", "vae", "frechet"),
    ("README.md", "98.5 % of new sentences", "translator", "exact_match/sentences/model"),
    ("README.md", "word by word 1.5 %", "translator", "exact_match/sentences/word by word"),
    (GALLERY, "| 85.9 % |", "assistant_evaluate", "new_entities,_by_kind/scaled"),
    (GALLERY, "| 19.0 % |", "assistant_evaluate", "new_phrasings,_by_kind/scaled"),
    (GALLERY, "answer right | 89.5 %", "assistant_evaluate", "answers,_new_numbers/right"),
    (GALLERY, "wrong answer | 10.0 %", "assistant_evaluate", "answers,_new_numbers/wrong"),
    ("README.md", "0.141 nats a note event", "music", "val_loss"),
    ("README.md", "0.599", "music", "kneser_ney"),
    (GALLERY, "| 0.778 |", "music_folk_300_steps", "val_loss"),
    (GALLERY, "| 0.729 |", "music_folk_500_steps", "val_loss"),
    (GALLERY, "by counting 0.995", "music_folk_500_steps", "kneser_ney"),
    (GALLERY, "from the same tune 0.457", "music_folk_500_steps", "kneser_ney_cache"),
    (GALLERY, "| 62.3 % |", "music_folk_300_steps", "samples/on_beat"),
    (GALLERY, "49.9 % |", "music_folk_500_steps", "samples/on_beat"),
    (GALLERY, "0.3291 nats", "music_evaluate", "loss_by_bar_read_from_the_beginning/bar 1"),
    (GALLERY, "begins) 0.2185", "music_evaluate", "loss_by_bar_read_from_the_beginning/bar 9"),
    ("README.md", "and 0.415 if", "music", "kneser_ney_cache"),
    ("README.md", "100.0 % of images", "clip", "recall/held out/image to text/@1"),
    ("README.md", "at random 0.5 %", "clip", "recall/held out/image to text/chance@1"),
    (STUDIES, "| 100.0 % | 100.0 % | 100.0 % |", "clip_seed_3", "recall/held out/image to text/@1"),
    (STUDIES, "85.2 % |", "clip_adamw_seed_3", "recall/held out/image to text/@1"),
    (STUDIES, "85.5 % |", "clip_adamw_seed_2", "recall/held out/image to text/@1"),
    (STUDIES, "34.1 % |", "clip_adamw_seed_2", "zero_shot/held out/mouth/prompts"),
    (STUDIES, "one seed) | 98.8 %", "clip_adamw_waiting", "recall/held out/image to text/@1"),
    (STUDIES, "| 84.4 % |", "clip_no_waiting", "recall/held out/image to text/@1"),
    (STUDIES, "evaluate`: 34.6 %", "clip_no_waiting_evaluate", "read_linearly_in_the_vectors_of_images/mouth"),
    ("README.md", "99.9 % of captions right", "captioner", "scores/held out/model/right"),
    ("README.md", "training image 34 %", "captioner", "scores/held out/nearest image/right"),
    ("README.md", "synthetic speech: 2.9 %", "speech", "wer"),
    ("README.md", "9.1 % in noise", "speech", "wer_10db"),
    ("README.md", "time warping 37.2 %", "speech", "wer_warping"),
    (GALLERY, "| 2.9 % (1.8 %)", "speech_seed_2", "wer"),
    (GALLERY, "| 9.3 % | 18.7 %", "speech_without_ctc", "wer_unseen"),
    (GALLERY, "| 35.6 % | 73.9 %", "speech_evaluate", "words_wrong,_unseen combinations/warping"),
    (GALLERY, "| 13.6 % | 33.4 %", "speech_evaluate", "words_wrong,_unseen combinations/CTC alone"),
    (GALLERY, "| 3.1 % (1.6 %)", "speech_seed_3", "wer"),
    (GALLERY, "the distances 18.95", "latent_diffusion_seed_3", "scores/held out/Fréchet"),
    (GALLERY, "| 99.9 % | 11.18 |", "latent_diffusion_matched", "w 2, 20 calls/mean"),
    (GALLERY, "| 12.45 |", "latent_diffusion_matched", "w 2, 10 calls/Fréchet"),
    (GALLERY, "| 98.9 % | 10.99", "latent_diffusion_matched", "w 1, 20 calls/mean"),
    (GALLERY, "| 9.6 | 0.62 |", "diffusion_64_pixels_545_steps", "frechet"),
    (GALLERY, "| 4.8 | 0.66 |", "diffusion_64_pixels_2200_steps", "frechet"),
    (GALLERY, "distances are 19.15", "latent_diffusion_seed_2", "scores/held out/Fréchet"),
    (GALLERY, "| 1.8 % (1.2 %)", "speech", "wer_unseen"),
    (GALLERY, "| 12.5 % | 36.9 %", "speech_6000_sentences", "wer_10db"),
    ("README.md", "as asked for in 100 %", "diffusion", "accuracy/mouth"),
    (GALLERY, "| 3.9 | 3.8 | 3.9 |", "diffusion", "frechet"),
    (GALLERY, "3.8 | 3.9 |\n| attribute", "diffusion_seed_2", "frechet"),
    (GALLERY, "3.9 |\n| attribute", "diffusion_seed_3", "frechet"),
    ("README.md", "as the prompt says in 99.8 % to", "text_to_image", "scores/held out, 32/mouth"),
    ("README.md", "ignored 21 % to", "text_to_image", "scores/held out, other faces/style"),
    (GALLERY, "0.1975", "attention_stories_GPT_*", "test_loss"),
    (GALLERY, "0.602", "attention_stories_LSTM_*", "test_loss"),
    (GALLERY, "0.936", "attention_stories_GPT_*", "test_kneser_ney"),
    (GALLERY, "83.2 %", "attention_stories_GPT_*", "consistent"),
    (GALLERY, "0.0 %", "attention_stories_LSTM_*", "consistent"),
    (GALLERY, "3.841", "attention_tales_GPT_*", "test_loss"),
    (GALLERY, "3.708", "attention_tales_LSTM_*", "test_loss"),
    (GALLERY, "3.844", "attention_tales_GPT_*", "test_kneser_ney"),
    ("README.md", "a perceptron 94 %", "bert", "scores/entities/perceptron"),
    (GALLERY, "(on a GPU) | 100.0", "captioner_seed_2", "scores/held out/model/right%"),
    (GALLERY, "right for 35.4 %", "simple_translation", "sentences/exactly right"),
    (GALLERY, "sentences and 19.2 %", "simple_translation", "combinations/exactly right"),
    ("README.md", "similar training sentence 35 %", "simple_translation", "sentences/exactly right"),
    ("README.md", "a linear classifier 99.7 %", "simple_linear", "faces/hair"),
    (GALLERY, "| 99.7 % (hair) to 100.0 %", "simple_linear", "faces/hair"),
    (GALLERY, "six 99.5 %", "simple_linear", "faces/all"),
    (GALLERY, "all six right in 99.5 %", "simple_linear", "held out, 32/all"),
    (GALLERY, "held-out and 97.9 %", "simple_linear", "unseen, 32/all"),
    (GALLERY, "glasses in 99.7 %", "simple_linear", "red and round, 32/glasses"),
    (GALLERY, "style in 96.7 %", "simple_linear", "curly and pink, 32/style"),
    (GALLERY, "write down | 99.5 %", "simple_linear", "held out, 32/all"),
    (GALLERY, "reads 99.0 % of glasses", "simple_linear", "held out, 16/glasses"),
    (GALLERY, "glasses and 99.7 % of mouths", "simple_linear", "held out, 16/mouth"),
    (GALLERY, "22.34 | 0.7659", "simple_colours", "mean, table of colours/PSNR"),
    (GALLERY, "faces | 99.9 %", "simple_colours", "mean, table of colours/right"),
    (GALLERY, "other attributes (99.8 %)", "simple_colours", "mean, table of colours/kept"),
    (GALLERY, "the table has 20.42", "simple_colours", "b → a, table of colours/PSNR"),
    (GALLERY, "to black (24.27", "simple_colours", "a → b, table of colours/PSNR"),
    (GALLERY, "97.1 % | 85.3", "simple_colours", "mean, one picture added/kept"),
    ("README.md", "99.9 % black or blond", "simple_colours", "mean, table of colours/right"),
    ("README.md", "blond, 99.8 % kept", "simple_colours", "mean, table of colours/kept"),
    ("README.md", "principal components, 91;", "vae_evaluate", "Fréchet_distance/linear model"),
    (GALLERY, "(log p(x)) 1141.4;", "vae_evaluate", "log_p(x)_of_a_linear_model/of all"),
    (GALLERY, "PCA) | | 91.4", "vae_evaluate", "Fréchet_distance/linear model"),
    (GALLERY, "training images 5.4; untrained 1061", "vae_mnist_paper", "frechet_floor"),
    ("README.md", "a review seen in 96.2 %", "bert_seed_3", "scores/sentiment/pre-trained"),
    ("README.md", "to 97.7 % (naive", "bert", "scores/sentiment/pre-trained"),
    ("README.md", "names found 97 %", "bert_seed_2", "scores/entities/pre-trained"),
    ("README.md", "and 80 % to 93 % of", "bert_seed_3", "scores/answer/pre-trained"),
    ("README.md", "to 93 % of answers", "bert_seed_2", "scores/answer/pre-trained"),
    ("README.md", "(naive Bayes 89 %", "bert", "scores/sentiment/naive Bayes, EM"),
    ("README.md", "with `--reviews=FILE`, 66.8 %", "bert_film_reviews_ten_draws", "mean/BERT%"),
    ("README.md", "of ten draws; naive Bayes 62.9 %", "bert_film_reviews_ten_draws", "mean/naive Bayes%"),
    ("README.md", "new numbers 86.8 %", "assistant", "exact_match/numbers/with tools"),
    (GALLERY, "| 3.4 %", "assistant", "exact_match/numbers/without"),
    (GALLERY, "| 82.8 %; ", "assistant", "exact_match/entities/with tools"),
    (GALLERY, "| 58.0 %; ", "assistant", "exact_match/phrasings/with tools"),
    (GALLERY, "| 50.2 %; ", "assistant", "exact_match/all three/with tools"),
    (GALLERY, "; 83.6", "assistant_seed_2", "exact_match/numbers/with tools%"),
    (GALLERY, "; 90.0", "assistant_seed_2", "exact_match/entities/with tools%"),
    (GALLERY, " 80.4 |", "assistant_seed_3", "exact_match/entities/with tools%"),
    (GALLERY, " 46.8 |", "assistant_seed_3", "exact_match/all three/with tools%"),
    (GALLERY, "loss is 0.144 and", "music_seed_2", "val_loss"),
    (GALLERY, "BLEU 52.7", "translator_multi30k", "bleu/sentences/model"),
    (GALLERY, "99.7 % (mouth)", "cgan", "accuracy/mouth"),
    ("README.md", "more seeds 98.9 % or more", "cgan_seed_2", "accuracy/mouth"),
    (GALLERY, "seeds | 98.9 %, 99.2", "cgan_seed_2", "accuracy/mouth"),
    (GALLERY, "99.2 % | |", "cgan_seed_3", "accuracy/mouth"),
    (GALLERY, "1.88, 2.37, 1.96", "cgan", "frechet"),
    (GALLERY, "2.37, 1.96 |", "cgan_seed_2", "frechet"),
    (GALLERY, "1.96 | other", "cgan_seed_3", "frechet"),
    (STUDIES, "2.19, 2.14 and 2.83", "cgan_3500_steps", "frechet"),
    (STUDIES, "2.14 and 2.83;", "cgan_3500_steps_seed_2", "frechet"),
    (STUDIES, "2.83; with the", "cgan_3500_steps_seed_3", "frechet"),
    (GALLERY, "same labels 0.47; untrained 742", "cgan", "frechet_floor"),
    (GALLERY, "0.69, 0.73, 0.73", "cgan", "diversity"),
    (GALLERY, "0.73, 0.73 |", "cgan_seed_2", "diversity"),
    (GALLERY, "0.73 | other", "cgan_seed_3", "diversity"),
    (STUDIES, "distance of 3.6 and a diversity", "cgan_plain_norms", "frechet"),
    (STUDIES, "2.2 and 0.67 (seed 1", "cgan_plain_norms_5000_steps", "frechet"),
    (STUDIES, "earlier default | 15.5", "cgan_trials_400_steps", "base/frechet"),
    (STUDIES, "each BatchNorm | 11.2", "cgan_trials_400_steps", "selfmod_z16/frechet"),
    (GALLERY, "| 18.9 | training images 2.3", "gan", "frechet"),
    (GALLERY, "three seeds | 0.60, 0.61", "gan", "diversity"),
    (GALLERY, "0.9243; 0.7383", "gan_evaluate", "D_of_this_run/accuracy"),
    (GALLERY, "0.7383 | control", "gan_evaluate", "fresh_D/accuracy"),
    (GALLERY, "control 0.5225", "gan_evaluate", "control:_real_against_real/accuracy"),
    (GALLERY, "| 0.1078 |", "gan_evaluate", "mean_distance_to_the_nearest_training_image/samples"),
    (GALLERY, "| 0.811 |", "gan_evaluate", "power_in_checkerboards,_relative/samples"),
    (GALLERY, "4214.5", "vae", "elbo"),
    (GALLERY, "−1528.1", "vae", "mean_image"),
    (GALLERY, "| 24.1 | training images", "vae", "frechet"),
    (GALLERY, "same labels | 0.93 |", "vae", "diversity"),
    (GALLERY, "round | 0.9792 |", "vae_evaluate", "read_as_changed/glasses: none → round"),
    (GALLERY, "smile | 0.8032 |", "vae_evaluate", "read_as_changed/mouth: open → smile"),
    (GALLERY, "31.3 |", "vae_evaluate", "Fréchet_distance/K = 1"),
    (GALLERY, "23.8 |", "vae_evaluate", "Fréchet_distance/K = 10"),
    (GALLERY, "decoded | | 1.1 |", "vae_evaluate", "Fréchet_distance/encoded and decoded"),
    (GALLERY, "| 24.25 |", "cyclegan", "scores/a → b/PSNR"),
    (GALLERY, "| 0.8104 |", "cyclegan", "scores/a → b/SSIM"),
    (GALLERY, "| 26.00 |", "cyclegan", "scores/b → a/PSNR"),
    (GALLERY, "same run have 96.9 %", "translator_last_weights", "exact_match/sentences/model"),
    (GALLERY, "97.4 % (99.0)", "translator", "exact_match/combinations/model"),
    (GALLERY, "| 98.4 % (99.6 %)", "clip", "recall/combinations never seen/image to text/@1"),
    (GALLERY, "red hair | 93.5 %", "clip", "held_back/red hair, round glasses/glasses/prompts"),
    (GALLERY, "| 97.0 % |", "clip", "held_back/red hair, round glasses/glasses/descriptions"),
    (GALLERY, "pink | 36.5 %", "clip", "held_back/curly style, pink background/style/prompts"),
    (GALLERY, "| 72.2 % |", "clip", "held_back/curly style, pink background/style/descriptions"),
    (GALLERY, "together in 99.2 %", "clip", "zero_shot/held out/all six/prompts"),
    (GALLERY, "| 98.3 % (99.8)", "captioner", "scores/unseen combinations/model/right"),
    (GALLERY, "33.8 % (87.4)", "captioner", "scores/held out/nearest image/right"),
    (GALLERY, "faces | 3.9 |", "diffusion", "frechet"),
    (GALLERY, "same labels 1.9; untrained", "diffusion", "frechet_floor"),
    (GALLERY, "same labels | 0.71 |", "diffusion", "diversity"),
    (GALLERY, "| 13.48; 104.5 |", "text_to_image", "scores/held out, 32/Fréchet"),
    # from `evaluate`
    (GALLERY, "only 46.4 %", "cyclegan_evaluate", "neither/kept"),
    (GALLERY, "it 73.7 %", "cyclegan_evaluate", "no cycle/kept"),
    (GALLERY, "it 88.4 %", "cyclegan_evaluate", "no identity/kept"),
    (GALLERY, "| 23.71 |", "cyclegan_evaluate", "full/PSNR"),
    # with MNIST's test images
    (GALLERY, "| 31.1 |", "vae_mnist", "frechet"),
    (GALLERY, "−100.7", "vae_mnist", "elbo"),
    (GALLERY, "same labels 3.4;", "diffusion_mnist", "frechet_floor"),
    (GALLERY, "digits | 14.4 |", "diffusion_mnist", "frechet"),
    (GALLERY, "image | −109.1 |", "vae_mnist_paper", "elbo"),
    (GALLERY, "seeds | 13.4, 9.9", "gan_mnist", "frechet"),
    (GALLERY, "9.9, 13.4 | training", "gan_mnist_seed_2", "frechet"),
    (GALLERY, "13.4 | training images 5.7", "gan_mnist_seed_3", "frechet"),
    (GALLERY, "| 13.5 |", "text_to_image_evaluate", "w 2, 20 steps/Fréchet"),
    (GALLERY, "(94.3 %)", "text_to_image_evaluate", "w 1, 20 steps/mouth"),
    (GALLERY, "28.15 dB", "text_to_image_evaluate", "real, enlarged, s 0/PSNR"),
    ("README.md", "as the prompt says in 99.8 %", "latent_diffusion", "scores/held out/glasses"),
    (GALLERY, "PSNR of 33.93 dB", "latent_diffusion", "psnr"),
    (GALLERY, "encoded and decoded | 100.0 %", "latent_diffusion", "scores/held out, decoded/mouth"),
    (GALLERY, "| drawn | 100.0 %", "latent_diffusion", "scores/held out/mouth"),
    (GALLERY, "| 20.72", "latent_diffusion", "scores/held out/Fréchet"),
    (GALLERY, "| 98.7 % |", "latent_diffusion_evaluate", "scores/w 1, Euler, 20 calls/mean"),
    (GALLERY, "| 99.9 % | 100.0 % |", "latent_diffusion_evaluate", "scores/w 2, Euler, 20 calls/mean"),
    (GALLERY, "sets of z | 1.80", "cgan_ten_sets_of_z", "mean/seed 1"),
    (GALLERY, "2.21, 1.97 | |", "cgan_ten_sets_of_z", "mean/seed 2"),
    (GALLERY, "1.97 | |", "cgan_ten_sets_of_z", "mean/seed 3"),
    (GALLERY, "generated | 0.9961 |", "cgan_evaluate", "mean_accuracy_from/50 real + generated"),
    (GALLERY, "real 0.7445 |", "cgan_evaluate", "mean_accuracy_from/50 real"),
    (GALLERY, "generated | 0.9963 |", "cgan_evaluate", "mean_accuracy_from/100 real + generated"),
    (GALLERY, "real 0.8596 |", "cgan_evaluate", "mean_accuracy_from/100 real"),
    (GALLERY, "generated | 0.9966 |", "cgan_evaluate", "mean_accuracy_from/200 real + generated"),
    (GALLERY, "real 0.9313 |", "cgan_evaluate", "mean_accuracy_from/200 real"),
    (GALLERY, "seeds | 21.1;", "gan_seed_2", "frechet"),
    (GALLERY, "; 17.6 | |", "gan_seed_3", "frechet"),
    (GALLERY, "ELBO of 4101.9 and", "vae_seed_2", "elbo"),
    (GALLERY, "and 4134.0", "vae_seed_3", "elbo"),
    (GALLERY, "3.9 | 3.9 | 3.8", "diffusion_evaluate", "Fréchet_distance/dpm, 10 steps"),
    (GALLERY, "4.1 with 1,000", "diffusion_evaluate", "Fréchet_distance/ddpm, 1000 steps"),
    (GALLERY, "smallest distance, 3.9 (one", "diffusion_evaluate", "Fréchet_distance/guidance 1.0"),
    (GALLERY, "58.7", "diffusion_evaluate", "Fréchet_distance/guidance 0.0"),
    (GALLERY, "| 51.4 %", "captioner_evaluate", "attention_where_the_attribute_is/hair"),
    (GALLERY, "26.9 % |", "captioner_evaluate", "attention_where_the_attribute_is/mouth"),
    (GALLERY, "90.2 % |", "captioner_evaluate", "attention_where_the_attribute_is/background"),
    (GALLERY, "22.2 %", "captioner_evaluate", "share_of_the_image_that_this_is/glasses"),
    (GALLERY, "| 66 % |", "captioner_evaluate", "said_to_be_unlike_what_it_learnt_from/in 16 squares, shuffled"),
    (GALLERY, "| 0.3 %", "captioner_evaluate", "said_to_be_unlike_what_it_learnt_from/unseen combinations"),
    (GALLERY, "98.3 % of", "captioner_evaluate", "unseen combinations_right_with_a_beam_of/4"),
    *((GALLERY, f"{written} |", "finetune_evaluate", f"100, seed 1/{method}%") for written, method in (
        ("97.4", "frozen"), ("97.4", "last"), ("97.4", "all"), ("98.3", "lora"), ("55.0", "scratch"))),
    *((GALLERY, f"{written} |", "finetune_evaluate", f"900, seed 1/{method}%") for written, method in (
        ("97.9", "frozen"), ("99.0", "last"), ("99.3", "all"), ("99.5", "lora"), ("50.0", "scratch"))),
    *((GALLERY, written, f"bert{run}", f"scores/{task}/pre-trained%") for written, run, task in (
        ("| 97.7, 96.3", "", "sentiment"), ("96.3, 96.2 |", "_seed_2", "sentiment"), ("96.2 |", "_seed_3", "sentiment"),
        ("| 98.2, 96.6", "", "entities"), ("96.6, 97.0 |", "_seed_2", "entities"), ("97.0 |", "_seed_3", "entities"),
        ("| 92.4, 93.2", "", "answer"), ("93.2, 80.2 |", "_seed_2", "answer"), ("80.2 |", "_seed_3", "answer"))),
    *((GALLERY, written, f"bert{run}", "scores/sentiment/pre-trained and naive Bayes%") for written, run in (
        ("have 97.7, 96.0", ""), ("96.0 and 95.5 % now", "_seed_2"), ("and 95.5 % now", "_seed_3"))),
    *((GALLERY, written, f"bert{run}", f"scores/{task}/from scratch%") for written, run, task in (
        ("| 59.8, 61.8", "", "sentiment"), ("61.8, 58.5 |", "_seed_2", "sentiment"), ("58.5 |", "_seed_3", "sentiment"),
        ("| 80.7, 81.1", "", "entities"), ("81.1, 79.7 |", "_seed_2", "entities"), ("79.7 |", "_seed_3", "entities"),
        ("| 22.8, 21.8", "", "answer"), ("21.8, 23.8 |", "_seed_2", "answer"), ("23.8 |", "_seed_3", "answer"))),
    *((GALLERY, written, f"bert_11_wide{run}", f"scores/{task}/pre-trained%") for written, run, task in (
        ("had 97.8, 93.2", "", "sentiment"), ("93.2 and 95.8 % of the", "_seed_2", "sentiment"),
        ("95.8 % of the reviews", "_seed_3", "sentiment"), ("96.8, 97.7 and 95.4 % of the", "", "entities"),
        ("97.7 and 95.4 % of the", "_seed_2", "entities"), ("95.4 % of the names", "_seed_3", "entities"),
        ("75.0, 72.2 and 70.0 % of the", "", "answer"), ("72.2 and 70.0 % of the", "_seed_2", "answer"), ("70.0 % of the answers", "_seed_3", "answer"))),
    *((STUDIES, written, f"bert_before_convolution{run}", f"scores/{task}/pre-trained%") for written, run, task in (
        ("98.5, 94.8 and", "", "sentiment"), ("94.8 and 96.0 %, in each", "_seed_2", "sentiment"),
        ("96.0 %, in each seed", "_seed_3", "sentiment"), ("answers were 48.4", "", "answer"),
        ("46.6 and 49.2 % right", "_seed_2", "answer"), ("49.2 % right", "_seed_3", "answer"))),
    *((STUDIES, written, f"bert_earlier_head{run}", "scores/sentiment/pre-trained%") for written, run in (
        ("97.5, 95.5 and", ""), ("95.5 and 91.6", "_seed_2"), ("and 91.6 %", "_seed_3"))),
    (STUDIES, "once 97.2 %", "bert_reports_first_gpu", "answer,1/pre-trained"),
    (STUDIES, "once 61.4 %", "bert_reports_first", "scores/answer/pre-trained"),
    (STUDIES, "four times 44.8 to", "bert_reports_first_seed_2", "scores/answer/pre-trained%"),
    (STUDIES, "50.0 %. Guessing", "bert_reports_first_larger_rate", "scores/answer/pre-trained"),
    (GALLERY, "BERT had 64.5 %", "bert_film_reviews_100_steps", "mean/BERT%"),
    (GALLERY, "draws; naive Bayes 62.9 %)", "bert_film_reviews_100_steps", "mean/naive Bayes%"),
    (GALLERY, "64.9 % (three draws", "bert_before_convolution_film_reviews_draws", "mean/BERT%"),
    (GALLERY, "| BERT | 66.8", "bert_film_reviews_ten_draws", "mean/BERT%"),
    (GALLERY, "together | 67.5", "bert_film_reviews_ten_draws", "mean/BERT and naive Bayes%"),
    (GALLERY, "| naive Bayes | 62.9", "bert_film_reviews_ten_draws", "mean/naive Bayes%"),
    (GALLERY, "unlabelled reviews | 55.4", "bert_film_reviews_ten_draws", "mean/naive Bayes, EM%"),
    (GALLERY, "| bag of words | 59.5", "bert_film_reviews_ten_draws", "mean/bag of words%"),
    *((STUDIES, written, "bert_earlier_head_same_models", f"{seed}/pre-trained%") for written, seed in (
        ("models it has 95.5", 1), ("93.4 and", 2), ("and 89.5 %", 3))),
    (GALLERY, "counts 94.8 (94.8, 91.8)", "bert", "scores/answer/rule with counts%"),
    (GALLERY, "(94.8, 91.8) |", "bert_seed_2", "scores/answer/rule with counts%"),
    (GALLERY, "91.8) |", "bert_seed_3", "scores/answer/rule with counts%"),
    ("README.md", "from the labels, 92 % to", "bert_seed_3", "scores/answer/rule with counts"),
    ("README.md", "to 95 %; for answers", "bert", "scores/answer/rule with counts"),
    *((STUDIES, written, "bert_reports_trials", f"{key}%") for written, key in (
        ("learns | 55.0", "tuning, 500 other questions/seed 1, unfinished, all"),
        ("at rest | 62.0", "tuning, 500 other questions/at rest"),
        ("batch of reports | 71.2", "tuning, 500 other questions/at rest, reports"),
        ("the same | 72.4", "tuning, 500 other questions/seed 1"),
        ("questions) | 49.6", "tuning, 500 other questions/seed 2, held-out questions"),
        (") | 69.8 |", "tuning, 500 other questions/seed 2, questions"),
        ("fact in 95.6 and", "right fact at a gap, default runs, n = 798/seed 1"),
        ("95.1 % of the gaps", "right fact at a gap, default runs, n = 798/seed 2"))),
    (STUDIES, "has 83.2 % of the answers right", "bert_clozes_trials", "answers, seed 1, 400 steps of tuning/reports while tuning%"),
    (STUDIES, "and 75.4 % if no reports", "bert_clozes_trials", "answers, seed 1, 400 steps of tuning/none%"),
    (STUDIES, "likelier in only 75 %", "bert_clozes_trials", "right fact at a gap, known names, seed 3/half, 5,000 steps"),
    (STUDIES, "have 96.6 and 92.8 %", "bert_clozes_trials", "reviews, batches of 32/seed 1%"),
    (STUDIES, "95.0 and 82.0 %. (One", "bert_clozes_trials", "reviews, batches of 24/seed 1%"),
    (STUDIES, "loss of 1.665, with", "bert_no_cooccurrence", "val_loss"),
    (STUDIES, "them of 1.681", "bert_earlier_head", "val_loss"),
    (STUDIES, "only 64.5 % of the reviews", "bert_no_cooccurrence", "scores/sentiment/pre-trained"),
    (STUDIES, "were 97.9 % in place", "bert_no_cooccurrence", "scores/entities/pre-trained"),
    (STUDIES, "answers 44.6 % in place", "bert_no_cooccurrence", "scores/answer/pre-trained"),
    (GALLERY, "it has 77.3 %", "bert_film_reviews_all", "scores/sentiment/pre-trained%"),
    (GALLERY, "both together 79.9 %", "bert_film_reviews_all", "scores/sentiment/pre-trained and naive Bayes%"),
    (GALLERY, "naive Bayes 78.7 %", "bert_film_reviews_all", "scores/sentiment/naive Bayes%"),
]


def value_of(folder: Path, run: str, key: str):
    """The value in the run's result.json, or its mean over several runs; None if there is no such run or key. A run
    called NAME_evaluate is the evaluate.json of NAME."""
    values = []
    of_run = f"{run.removesuffix('_evaluate')}/{'evaluate' if run.endswith('_evaluate') else 'result'}.json"
    for path in [*folder.glob(f"{run}.json"), *folder.glob(of_run)]:
        value = json.loads(path.read_text("utf-8"))
        for part in key.removesuffix("%").split("/"):
            value = value.get(part) if isinstance(value, dict) else None
        values.append(value)
    if not values or None in values:
        return None
    return sum(values) / len(values)


def as_written(value: float, written: str, share: bool) -> str:
    """The value rounded and written like the number on the page: 0.9676 like "96.8 %" is "96.8 %"."""
    number = re.search(r"-?\d(?:[\d.,]*\d)?", written.replace("−", "-"))[0]
    decimals = len(number.partition(".")[2])
    if share:
        value *= 100
    return written.replace(number, f"{value:.{decimals}f}")


def main(folder: Path = KEPT) -> int:
    """Print the list; returns how many numbers differ, are not on their page, or have no file."""
    wrong = 0
    for page, written, run, key in NUMBERS:
        value = value_of(folder, run, key)
        there = written in (ROOT / page).read_text("utf-8")
        share = "%" in written or key.endswith("%")
        found = as_written(value, written, share) if value is not None else "no such file"
        same = found == written and there
        wrong += not same
        remark = "" if same else "   <-- " + ("not on the page" if found == written else f"now {found}")
        print(f"{page}: {written:12} from {run}, {key}{remark}")
    print(f"{len(NUMBERS)} numbers, {wrong} of them wrong")
    return wrong


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])) if sys.argv[1:] else main())
