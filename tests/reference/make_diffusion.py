"""Makes diffusion.npz: noise schedules, and chains from noise to data, by diffusers, for tests/test_diffusion.py.

python tests/reference/make_diffusion.py      (made with diffusers 0.42.1, torch 2.13.0, numpy 2.4.6)

NAME is linear or cosine (squaredcos_cap_v2). NAME/betas (1000,): as diffusers has them, in float32; all else is in
float64, for T = 50: diffusers is given NAME/abar (50,), its formula in float64 (linear: β times 1000 / T).
x0, eps, noise (50, 2, 3): what a network is said to have answered at each t, and the noise z that is added then.
    NAME/forward (50, 2, 3): add_noise at each t of x0 and eps
    NAME/from_eps, NAME/from_v (50, 2, 3): pred_original_sample at each t of sample noise and output eps
    NAME/WAY (steps + 1, 2, 3): x at each of the times of a chain that begins at noise[-1], and its result
WAY is small, large (DDPM, variance fixed_small and fixed_large, all 50 steps), strided (fixed_large at `times`),
eta0, eta1 (DDIM at `times`, set_alpha_to_one) or dpm (DPM-Solver++(2M) at `times`, midpoint, final sigma zero).
"""
import types
from pathlib import Path

import diffusers
import numpy as np
import torch
from diffusers import DDIMScheduler, DDPMScheduler, DPMSolverMultistepScheduler
from diffusers.schedulers import scheduling_ddpm, scheduling_dpmsolver_multistep

print("diffusers", diffusers.__version__, "torch", torch.__version__, "numpy", np.__version__)
T, rng = 50, np.random.default_rng(0)
x0, eps, noise = (torch.tensor(rng.normal(size=(T, 2, 3))) for _ in range(3))
times = torch.linspace(T - 1, 0, 10, dtype=torch.float64).round().int().tolist()
golden = {"x0": x0, "eps": eps, "noise": noise, "times": np.array(times)}

# diffusers rounds samples to float32 on their way into DPM-Solver: here that is float64
scheduling_dpmsolver_multistep.torch = types.SimpleNamespace(**{**vars(torch), "float32": torch.float64})


def scheduler(kind, betas, **options):
    made = kind(num_train_timesteps=T, **options)
    made.betas, made.alphas, made.alphas_cumprod = betas, 1 - betas, (1 - betas).cumprod(0)
    return made


def f(u):
    return np.cos((u + 0.008) / 1.008 * np.pi / 2) ** 2


for name, own in (("linear", "linear"), ("cosine", "squaredcos_cap_v2")):
    golden[f"{name}/betas"] = DDPMScheduler(1000, beta_schedule=own).betas
    if name == "linear":
        betas = np.linspace(0.0001, 0.02, T) * 1000 / T
    else:
        betas = np.array([min(1 - f((i + 1) / T) / f(i / T), 0.999) for i in range(T)])
    betas = torch.tensor(betas)
    ddpm = scheduler(DDPMScheduler, betas, clip_sample=False, prediction_type="sample")
    golden[f"{name}/abar"] = ddpm.alphas_cumprod
    golden[f"{name}/forward"] = torch.cat([ddpm.add_noise(x0[t:t + 1], eps[t:t + 1], torch.tensor([t]))
                                           for t in range(T)])
    for short, long in (("eps", "epsilon"), ("v", "v_prediction")):
        made = scheduler(DDPMScheduler, betas, clip_sample=False, prediction_type=long)
        golden[f"{name}/from_{short}"] = torch.stack([made.step(eps[t], t, noise[t]).pred_original_sample
                                                      for t in range(T)])

    for way in ("small", "large", "strided"):
        made = scheduler(DDPMScheduler, betas, clip_sample=False, prediction_type="sample",
                         variance_type="fixed_small" if way == "small" else "fixed_large")
        chain, at = [noise[-1]], times if way == "strided" else list(range(T))[::-1]
        made.set_timesteps(timesteps=at)
        for t in at:
            scheduling_ddpm.randn_tensor = lambda *_, t=t, **__: noise[t]
            chain.append(made.step(x0[t], t, chain[-1]).prev_sample)
        golden[f"{name}/{way}"] = torch.stack(chain)

    for eta in (0, 1):
        made, chain = scheduler(DDIMScheduler, betas, clip_sample=False, prediction_type="sample"), [noise[-1]]
        for t, s in zip(times, [*times[1:], -1]):       # DDIM goes back by T // num_inference_steps: here by t − s
            made.num_inference_steps = next(n for n in range(1, T + 1) if T // n == t - s or s < 0)
            chain.append(made.step(x0[t], t, chain[-1], eta=eta, variance_noise=noise[t] if eta else None).prev_sample)
        golden[f"{name}/eta{eta}"] = torch.stack(chain)

    made = scheduler(DPMSolverMultistepScheduler, betas, prediction_type="sample", algorithm_type="dpmsolver++",
                     solver_order=2, solver_type="midpoint", lower_order_final=True, final_sigmas_type="zero")
    made.set_timesteps(timesteps=times)
    made.sigmas = torch.cat([((1 - made.alphas_cumprod) / made.alphas_cumprod)[times] ** 0.5, torch.zeros(1)])
    assert made.timesteps.tolist() == times
    chain = [noise[-1]]
    for t in times:
        chain.append(made.step(x0[t], t, chain[-1]).prev_sample)
    golden[f"{name}/dpm"] = torch.stack(chain)

assert all(torch.as_tensor(value).isfinite().all() for value in golden.values())
golden = {key: np.asarray(value) for key, value in golden.items()}
np.savez_compressed(Path(__file__).parent / "diffusion.npz", **golden)
